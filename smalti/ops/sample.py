"""Head, guidance and sampling in one operator: hidden vectors in, one token a row out (docs/format.md, section 5)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from smalti.checks import check_real, check_whole
from smalti.errors import SmaltiError

# Logits of one chunk. On a CPU 2²¹ float32 values, 8 MB, stay in its cache; a GPU wants large products.
_CHUNK_ELEMENTS = {"cpu": 2**21}
_CHUNK_ELEMENTS_ELSEWHERE = 2**26


class TokenChoice(NamedTuple):
    """What a row's distribution p = softmax(logits), at temperature 1 and after top-k and top-p, came to.

    Attributes:
        candidate: (N,) int64, the token chosen.
        probability: (N,) float32, p of the candidate.
        current_probability: (N,) float32, p of the row's current token (0 for ids outside the head, such as
            the mask), or None where no current tokens were given.
        entropy: (N,) float32, of p in nats.
    """

    candidate: torch.Tensor
    probability: torch.Tensor
    current_probability: torch.Tensor | None
    entropy: torch.Tensor


def sample_tokens(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    uniform: torch.Tensor | None = None,
    *,
    hidden_uncond: torch.Tensor | None = None,
    guidance_scale: float = 0.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    current_tokens: torch.Tensor | None = None,
    chunk_rows: int | None = None,
) -> TokenChoice:
    """Choose a token for every row from the guided logits (1 + s)·cond − s·uncond.

    The head is linear, so the hidden vectors are combined instead of the logits: one product where there were
    two, and nothing of size N × V is ever built, only chunks of rows. The probability is read from p at
    temperature 1, while the candidate is p's mode or drawn from softmax(logits / temperature) by inverting
    the cumulative distribution at `uniform`.

    Args:
        hidden: (N, D) conditional hidden vectors.
        head_weight: (V, D).
        uniform: (N,) float in [0, 1), one number a row, or None for the mode.
        hidden_uncond: (N, D) unconditional hidden vectors, or None for no guidance.
        guidance_scale: s.
        temperature: of the draw; 0 is the mode.
        top_k: keep the k largest logits (and those equal to the k-th), or None.
        top_p: after top-k, keep the fewest tokens whose probabilities reach top_p, or None.
        current_tokens: (N,) int64, the tokens whose probability is wanted as well, or None.
        chunk_rows: rows at a time; None takes a few megabytes of logits. It changes memory, not the result.

    Raises:
        SmaltiError: an argument that is out of range or of the wrong shape.
    """
    _check(hidden, head_weight, uniform, hidden_uncond, current_tokens)
    check_filters(temperature, top_k, top_p)
    if chunk_rows is not None:
        check_whole("chunk_rows", chunk_rows)
    rows, vocabulary = hidden.shape[0], head_weight.shape[0]
    elements = _CHUNK_ELEMENTS.get(hidden.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
    chunk = chunk_rows or max(1, elements // vocabulary)
    mode = uniform is None or temperature == 0
    parts = []
    for start in range(0, rows, chunk):
        index = torch.arange(start, min(start + chunk, rows), device=hidden.device)
        count = index.shape[0]
        index = _at_least(index)
        guided = hidden[index]
        if hidden_uncond is not None:
            guided = (1.0 + guidance_scale) * guided.float() - guidance_scale * hidden_uncond[index].float()
        logits = (guided.to(head_weight.dtype) @ head_weight.T).float()
        logits = filter_logits(logits, top_k, top_p)
        chosen = _choose(
            logits,
            None if mode else uniform[index],
            temperature,
            None if current_tokens is None else current_tokens[index],
        )
        parts.append([None if column is None else column[:count] for column in chosen])
    if not parts:
        empty = hidden.new_empty(0, dtype=torch.float32)
        return TokenChoice(empty.long(), empty, None if current_tokens is None else empty, empty)
    candidate, probability, current, entropy = zip(*parts, strict=True)
    return TokenChoice(
        torch.cat(candidate),
        torch.cat(probability),
        None if current_tokens is None else torch.cat(current),
        torch.cat(entropy),
    )


def _at_least(index: torch.Tensor) -> torch.Tensor:
    """Row indices, the last repeated until they are enough for a CPU to compute each row in the same way.

    For a few rows a matrix product takes other kernels, which round differently, so a token could depend on
    how many others are chosen along with it.
    """
    least = 8 * (torch.get_num_threads() + 1)
    if index.device.type != "cpu" or index.shape[0] >= least:
        return index
    return torch.cat([index, index[-1:].expand(least - index.shape[0])])


def filter_logits(logits: torch.Tensor, top_k: int | None, top_p: float | None) -> torch.Tensor:
    """Set the logits that top-k, then top-p leave out to −∞; (N, V) float32 → the same."""
    if top_k is not None and top_k < logits.shape[1]:
        smallest = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=1, descending=True, stable=True)
        probabilities = ordered.softmax(dim=1)
        # A token stays while those before it fall short of top_p, so the first always does.
        left_out = probabilities.cumsum(dim=1) - probabilities >= top_p
        logits = logits.masked_fill(left_out.scatter(1, order, left_out), -math.inf)
    return logits


def _choose(
    logits: torch.Tensor, uniform: torch.Tensor | None, temperature: float, current: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """One chunk: (n, V) float32 logits → candidate, its probability, the current token's, entropy."""
    largest, candidate = logits.max(dim=1, keepdim=True)
    shifted = logits - largest
    weights = shifted.exp()
    total = weights.sum(dim=1, keepdim=True)
    if uniform is not None:
        hot = weights if temperature == 1 else (shifted / temperature).exp()
        candidate = _invert(hot, uniform)
    probability = weights.gather(1, candidate) / total
    # log p = shifted − log total; where p is 0, 0 · −∞ would be NaN.
    spread = (weights * shifted.clamp_min(-1e30)).sum(dim=1, keepdim=True) / total
    entropy = total.log() - spread
    if current is not None:
        known = (current >= 0) & (current < logits.shape[1])
        found = weights.gather(1, current.where(known, 0)[:, None]) / total
        current = found[:, 0] * known
    return candidate[:, 0], probability[:, 0], current, entropy[:, 0].clamp_min(0)


def _invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """First index at which the cumulative weights (n, V) exceed uniform · their sum; (n, 1) int64."""
    cumulative = weights.cumsum(dim=1)
    total = cumulative[:, -1:]
    target = uniform.to(weights)[:, None] * total
    # Rounding may lift the target to the sum itself, beyond the last token that has any weight.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).clamp_max(weights.shape[1] - 1)


def check_filters(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise SmaltiError unless temperature, top_k and top_p are in range."""
    check_real("temperature", temperature)
    if top_k is not None:
        check_whole("top_k", top_k)
    if top_p is not None:
        check_real("top_p", top_p, 0, 1, above=True)


def _check(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    uniform: torch.Tensor | None,
    hidden_uncond: torch.Tensor | None,
    current_tokens: torch.Tensor | None,
) -> None:
    if hidden.ndim != 2 or head_weight.ndim != 2 or hidden.shape[1] != head_weight.shape[1]:
        raise SmaltiError(
            "hidden must be (N, D) and head_weight (V, D), "
            f"not {tuple(hidden.shape)} and {tuple(head_weight.shape)}"
        )
    if hidden_uncond is not None and hidden_uncond.shape != hidden.shape:
        raise SmaltiError(f"hidden_uncond must be {tuple(hidden.shape)}, not {tuple(hidden_uncond.shape)}")
    for name, value in (("uniform", uniform), ("current_tokens", current_tokens)):
        if value is not None and value.shape != hidden.shape[:1]:
            raise SmaltiError(f"{name} must be ({hidden.shape[0]},), not {tuple(value.shape)}")
