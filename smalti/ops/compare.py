"""How a row's predictions of several passes differ, from their hidden vectors, in chunks of logits.

With p_k the prediction k passes ago, p_k = softmax(z_k), and p̄ the mean of d of them:

    KL(p_0 ‖ p_1) = Σ_j p_0j · (log p_0j − log p_1j)
    H(p̄) = (1/d) · Σ_k H(p_k) + I,   I = (1/d) · Σ_k KL(p_k ‖ p̄)

I is the mutual information of the token and the pass. A hidden vector has D numbers where its distribution has V, so a
few passes cost little memory; each costs one product with the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from smalti.common.low_rank import LowRank
from smalti.errors import SmaltiError
from smalti.ops.low_rank import check_low_rank
from smalti.ops.sample import rows_of_a_product

# Logits of a chunk, of all passes together.
_CHUNK_ELEMENTS = {"cpu": 2**20}
_CHUNK_ELEMENTS_ELSEWHERE = 2**25


class Mixture(NamedTuple):
    """The mean of the predictions of several passes.

    Attributes:
        entropy: (N,) float32, H(p̄) in nats.
        information: (N,) float32, H(p̄) less the mean of the passes' entropies, at least 0.
        single: (d, N) float32, the passes' entropies in nats.
    """

    entropy: torch.Tensor
    information: torch.Tensor
    single: torch.Tensor


@torch.no_grad()
def pass_divergence(
    hidden: torch.Tensor, head_weight: torch.Tensor, low_rank: LowRank | None = None
) -> torch.Tensor:
    """Return KL(p_0 ‖ p_1) of each row, (N,) float32 in nats, at least 0.

    Args:
        hidden: (2, N, D) float, hidden vectors of this pass and of the one before.
        head_weight: (V, D).
        low_rank: update of the head, or None.

    Raises:
        SmaltiError: an argument of the wrong shape.

    Example:
        >>> hidden = torch.randn(1, 6, 4)
        >>> pass_divergence(hidden.expand(2, -1, -1), torch.randn(16, 4)).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    if hidden.ndim == 3 and len(hidden) != 2:
        raise SmaltiError(f"hidden must be of two passes, not {len(hidden)}", argument="hidden")
    found = []
    for now, before in _log_probabilities(hidden, head_weight, low_rank):
        found.append((now.exp() * (now - before)).sum(dim=1).clamp_min(0))
    return torch.cat(found) if found else hidden.new_zeros(0, dtype=torch.float32)


@torch.no_grad()
def pass_mixture(hidden: torch.Tensor, head_weight: torch.Tensor, low_rank: LowRank | None = None) -> Mixture:
    """Return entropy and information of the mean prediction of each row.

    Args:
        hidden: (d, N, D) float, hidden vectors of d passes.
        head_weight: (V, D).
        low_rank: update of the head, or None.

    Raises:
        SmaltiError: an argument of the wrong shape.
    """
    entropies = [hidden.new_zeros(0, dtype=torch.float32)]
    singles = [hidden.new_zeros(len(hidden), 0, dtype=torch.float32)]
    for logs in _log_probabilities(hidden, head_weight, low_rank):
        mean, single = torch.zeros_like(logs[0]), []
        for one in logs:
            p = one.exp()
            mean += p
            single.append(-p.mul_(one).sum(dim=1).clamp_max(0))
        mean /= len(logs)
        entropies.append(-torch.xlogy(mean, mean).sum(dim=1).clamp_max(0))
        singles.append(torch.stack(single))
    entropy, passes = torch.cat(entropies), torch.cat(singles, dim=1)
    return Mixture(entropy, (entropy - passes.mean(dim=0)).clamp_min(0), passes)


def _log_probabilities(
    hidden: torch.Tensor, head_weight: torch.Tensor, low_rank: LowRank | None
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield log p of chunks of rows, one (n, V) float32 for each pass."""
    if hidden.ndim != 3 or head_weight.ndim != 2 or hidden.shape[2] != head_weight.shape[1]:
        raise SmaltiError(
            "hidden must be (d, N, D) and head_weight (V, D), "
            f"not {tuple(hidden.shape)} and {tuple(head_weight.shape)}",
            argument="hidden",
        )
    check_low_rank(low_rank, head_weight)
    (passes, N, _), (V, _) = hidden.shape, head_weight.shape
    least = rows_of_a_product(hidden.device)
    size = max(least, _CHUNK_ELEMENTS.get(hidden.device.type, _CHUNK_ELEMENTS_ELSEWHERE) // (V * passes))
    for start in range(0, N, size):
        part = hidden[:, start : start + size].to(head_weight.dtype)
        rows = part.shape[1]
        if rows < least:
            part = torch.cat([part, part[:, -1:].expand(-1, least - rows, -1)], dim=1)
        logs = []
        for one in part:
            logits = one @ head_weight.T
            if low_rank is not None:
                low_rank.add_to(logits, one)
            logs.append(logits[:rows].log_softmax(dim=1, dtype=torch.float32))
        yield tuple(logs)
