"""Texts that compete for an image: their log-likelihood bounds under shared masks, the hopeless ones dropped early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from smalti.components import Components
from smalti.model.prompt import PromptBatch
from smalti.reading.likelihood import log_probabilities

Report = Callable[[int, int], None]
"""A function that is called with the passes that are done and with those that would be needed without dropping."""

# Masks after which candidates may be dropped for the first time; then after each doubling.
_FIRST = 4
# A candidate is out when it is behind by so many standard errors of the mean difference, and by so many nats.
_ERRORS, _NATS = 3.0, 2.0
# Positions of the backbone a pass, so that small grids fill a processor and large ones fit into its memory.
_POSITIONS = 512


@dataclass(frozen=True, eq=False)
class Bounds:
    """The bounds of some candidates.

    Attributes:
        values: (candidates,) float64, nats: the mean over masks of (L / m) · Σ log p(token), over m masked tokens of L.
            One that was dropped has the winner's bound less its lag on the masks that both have seen.
        masks: (candidates,) int64, number of masks of each.
        passes: number of grids that the denoiser has read.
    """

    values: torch.Tensor
    masks: torch.Tensor
    passes: int


def bounds(
    components: Components,
    tokens: torch.Tensor,
    prompts: Sequence[PromptBatch],
    masks: torch.Tensor,
    *,
    drop: bool = True,
    report: Report | None = None,
) -> Bounds:
    """Return the log-likelihood bound of an image under each candidate's prompt, without guidance.

    The bound is −log p(x | y) ≤ E_m [(L / m) · Σ −log p(x_i | visible, y)] for m uniform from 1 to L (arXiv
    2502.09992). All candidates share the masks, so what a mask makes easy or hard cancels in their differences (arXiv
    2303.16203, section 3.2).

    Args:
        components: the model.
        tokens: (h, w) int64, without masks.
        prompts: one prompt a candidate, each a batch of one, on the denoiser's device.
        masks: (K, h, w) bool, True where masked.
        drop: whether candidates that cannot win are dropped early.
        report: called after every candidate of a stage.

    Raises:
        SmaltiError: the denoiser's output is not finite.
    """
    K, count = len(masks), len(prompts)
    weights = tokens.numel() / masks.sum(dim=(1, 2)).double()
    found = torch.zeros(count, K, dtype=torch.float64)
    seen = torch.zeros(count, dtype=torch.int64)
    alive, first, passes = list(range(count)), 0, 0
    at_once = masks_at_once(components, tokens.shape[0], tokens.shape[1])
    while first < K:
        end = min(K, max(_FIRST, 2 * first) if drop and count > 1 else K)
        for candidate in alive:
            values = log_probabilities(
                components.denoiser, prompts[candidate], tokens, masks[first:end], at_once=at_once
            )
            found[candidate, first:end] = values.double().sum(dim=(1, 2)) * weights[first:end]
            seen[candidate] = end
            passes += end - first
            if report is not None:
                report(passes, count * K)
        first = end
        if drop:
            alive = _survivors(found[:, :first], alive)
            if len(alive) == 1:
                break
    return Bounds(_together(found, seen), seen, passes)


def masks_at_once(components: Components, height: int, width: int) -> int:
    """Return how many masks of a height × width grid a pass has, so that it needs no more memory than sampling."""
    if components.mode is not None:
        return 2 if components.guidance_batched else 1
    rows, columns = components.denoiser.config.positions(height, width)
    return max(2, _POSITIONS // (rows * columns))


def _survivors(found: torch.Tensor, alive: list[int]) -> list[int]:
    """Return the candidates that may still win, by the paired differences to the best so far.

    Args:
        found: (candidates, masks so far) float64.
        alive: candidates that have seen all of these masks.
    """
    best = max(alive, key=lambda candidate: float(found[candidate].mean()))
    kept = []
    for candidate in alive:
        lag = found[best] - found[candidate]
        mean, error = float(lag.mean()), float(lag.std()) / lag.numel() ** 0.5 if lag.numel() > 1 else 0.0
        if candidate == best or mean <= max(_NATS, _ERRORS * error):
            kept.append(candidate)
    return kept


def _together(found: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Return the bounds of all candidates, comparable though they have seen different numbers of masks."""
    most = int(seen.max())
    full = [index for index in range(len(seen)) if int(seen[index]) == most]
    best = max(full, key=lambda index: float(found[index, :most].mean()))
    lags = []
    for row, masks in zip(found, seen.tolist(), strict=True):
        lag = (found[best, :masks] - row[:masks]).mean()
        # Masks that came later may have moved the lead; what was dropped does not win.
        lags.append(lag if masks == most else lag.clamp_min(0))
    return found[best, :most].mean() - torch.stack(lags)
