"""Places in an order, row by row: what rules and the loop choose positions by."""

from __future__ import annotations

import torch


def places(*keys: torch.Tensor) -> torch.Tensor:
    """(B, n) int64: the place of every position in its row, 0 for the first.

    Args:
        keys: each (B, n), float or bool, the most important one first; larger comes first, and of positions that are
            equal in all of them the earlier one.
    """
    order = torch.arange(keys[0].shape[1], device=keys[0].device).expand(keys[0].shape)
    for key in reversed(keys):
        # Sorting bool is not implemented on every device.
        key = key.to(torch.uint8) if key.dtype == torch.bool else key
        order = order.gather(1, key.gather(1, order).argsort(dim=1, descending=True, stable=True))
    numbers = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, numbers)


def first_among(among: torch.Tensor, counts: torch.Tensor, *keys: torch.Tensor) -> torch.Tensor:
    """(B, n) bool: of the positions `among` (B, n) bool, in each row the counts[b] that come first by `keys`."""
    return (places(among, *keys) < counts[:, None]) & among


def ranks(order: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """(B, n) float32: minus each position's place in an order of all n positions; `like` is (B, n)."""
    places = torch.empty(len(order), dtype=torch.float32, device=like.device)
    places[torch.tensor(order, device=like.device)] = -torch.arange(
        len(order), dtype=torch.float32, device=like.device
    )
    return places.expand(like.shape)
