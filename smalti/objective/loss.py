"""The loss that a denoiser's training step minimises (docs/format.md, section 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from smalti.ops.gce import grouped_cross_entropy


class Loss(NamedTuple):
    """The loss of a batch, with detached measurements for the log.

    Attributes:
        weighted_sum: scalar, sum of the positions' weighted losses, in nats.
        weight: scalar, detached, sum of the positions' weights. Several batches add up both before they divide.
        masked: mean cross-entropy at masked positions, in nats.
        visible: mean cross-entropy at visible positions, in nats; 0 if their weight is 0.
        accuracy: fraction of masked positions whose likeliest token is the true one.
        group: (K,) mean −log of the true group's probability at masked positions, in nats, for each of K groupings.
        group_accuracy: (K,) fraction of masked positions whose likeliest token is in the true one's group.
    """

    weighted_sum: torch.Tensor
    weight: torch.Tensor
    masked: torch.Tensor
    visible: torch.Tensor
    accuracy: torch.Tensor
    group: torch.Tensor
    group_accuracy: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """Return the weighted mean over positions, in nats."""
        return self.weighted_sum / self.weight


def denoising_loss(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    targets: torch.Tensor,
    masked: torch.Tensor,
    *,
    edit_loss_weight: float,
    groups: Sequence[torch.Tensor] = (),
    group_weights: Sequence[float] = (),
    focus: float = 0.0,
) -> Loss:
    """Compute the grouped cross-entropy of the true tokens, with weight 1 at masked positions.

    Args:
        hidden: (B, n, D) output of the denoiser.
        head_weight: (V, D) weight of the head.
        targets: (B, h, w) int64, the true tokens.
        masked: (B, h, w) bool.
        edit_loss_weight: weight of visible positions, flipped or not.
        groups, group_weights, focus: as in `grouped_cross_entropy`; no groups mean plain cross-entropy.
    """
    rows, labels, is_masked = hidden.flatten(0, 1), targets.flatten(), masked.flatten()
    if edit_loss_weight == 0:
        rows, labels, is_masked = rows[is_masked], labels[is_masked], is_masked[is_masked]
    weight = torch.where(is_masked, 1.0, edit_loss_weight)
    computed = grouped_cross_entropy(
        rows, head_weight, labels, groups, group_weights, row_weight=weight, focus=focus, reduction="sum"
    )
    losses, count = computed.token_loss, is_masked.sum()
    among_masked = is_masked[:, None]
    return Loss(
        computed.loss,
        weight.sum(),
        (losses * is_masked).sum() / count.clamp_min(1),
        (losses * ~is_masked).sum() / (len(losses) - count).clamp_min(1),
        (computed.token_hit & is_masked).sum() / count.clamp_min(1),
        (computed.group_loss * among_masked).sum(dim=0) / count.clamp_min(1),
        (computed.group_hit & among_masked).sum(dim=0) / count.clamp_min(1),
    )
