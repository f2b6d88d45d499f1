"""The loss that a denoiser's training step minimises (docs/format.md, section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch

from smalti.model.head import Head
from smalti.ops.gce import grouped_cross_entropy


class Mean(NamedTuple):
    """A mean as its two sums, so that batches of any sizes add up to the mean of all of them.

    Attributes:
        total: scalar, detached, sum of the values.
        weight: scalar, detached, number of the values or the sum of their weights.
    """

    total: torch.Tensor
    weight: torch.Tensor

    @property
    def value(self) -> torch.Tensor:
        """Return the mean; 0 of nothing."""
        return self.total / self.weight.clamp_min(torch.finfo(torch.float32).tiny)


class Loss(NamedTuple):
    """The loss of a batch, with detached measurements for the log.

    Attributes:
        weighted_sum: scalar, sum of the positions' weighted losses, in nats.
        weight: scalar, detached, sum of the positions' weights. Several batches add up both before they divide.
        masked: cross-entropy at masked positions, in nats.
        visible: cross-entropy at visible positions, in nats; without positions if their weight is 0.
        accuracy: whether the likeliest token of a masked position is the true one.
        group: −log of the true group's probability at masked positions, in nats, for each of K groupings.
        group_accuracy: whether the likeliest token of a masked position is in the true one's group, likewise.
    """

    weighted_sum: torch.Tensor
    weight: torch.Tensor
    masked: Mean
    visible: Mean
    accuracy: Mean
    group: list[Mean]
    group_accuracy: list[Mean]

    @property
    def mean(self) -> torch.Tensor:
        """Return the weighted mean over positions, in nats."""
        return self.weighted_sum / self.weight


def denoising_loss(
    hidden: torch.Tensor,
    head: Head,
    targets: torch.Tensor,
    masked: torch.Tensor,
    *,
    edit_loss_weight: float,
    weights: torch.Tensor | None = None,
    groups: Sequence[torch.Tensor] = (),
    group_weights: Sequence[float] = (),
    focus: float = 0.0,
) -> Loss:
    """Compute the grouped cross-entropy of the true tokens, with weight 1 at masked positions.

    Args:
        hidden: (B, n, D) output of the denoiser.
        head: the denoiser's head, `gen_predictor`.
        targets: (B, h, w) int64, the true tokens.
        masked: (B, h, w) bool.
        edit_loss_weight: weight of visible positions, flipped or not.
        weights: (B, h, w) float, further factors of the positions' weights, or None for 1. The measurements are means
            with these factors, too.
        groups, group_weights, focus: as in `grouped_cross_entropy`; no groups mean plain cross-entropy.
    """
    rows, labels, is_masked = hidden.flatten(0, 1), targets.flatten(), masked.flatten()
    factor = torch.ones_like(labels, dtype=torch.float32) if weights is None else weights.flatten().float()
    if edit_loss_weight == 0 or weights is not None:
        kept = (is_masked | (edit_loss_weight != 0)) & (factor != 0)
        rows, labels, is_masked, factor = rows[kept], labels[kept], is_masked[kept], factor[kept]
    weight = factor * torch.where(is_masked, 1.0, edit_loss_weight)
    operator = partial(
        grouped_cross_entropy,
        targets=labels,
        groups=groups,
        group_weights=group_weights,
        row_weight=weight,
        focus=focus,
        reduction="sum",
    )
    computed = head.run(operator, rows)
    of_masked, of_visible = factor * is_masked, factor * ~is_masked

    def among_masked(values: torch.Tensor) -> Mean:
        return Mean((values * of_masked).sum(), of_masked.sum())

    return Loss(
        computed.loss,
        weight.sum(),
        among_masked(computed.token_loss),
        Mean((computed.token_loss * of_visible).sum(), of_visible.sum()),
        among_masked(computed.token_hit),
        [among_masked(values) for values in computed.group_loss.unbind(dim=1)],
        [among_masked(values) for values in computed.group_hit.unbind(dim=1)],
    )
