"""The head: the matrix that turns hidden vectors into logits, reached through a method of its module."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from smalti.model.lora import head_update

Result = TypeVar("Result")


class Head(nn.Linear):
    """The head of a denoiser, (V, D) without bias. Operators multiply by it in chunks; no logits are kept.

    Every product goes through `run`. Whoever shards, adapts or replaces the head therefore sees all of its uses. A
    weight that is read from outside is a shard, or lacks its adapter.

    Example:
        >>> import torch
        >>> head = Head(4, 16)
        >>> head.run(lambda hidden, weight: (hidden @ weight.T).shape, torch.zeros(3, 4))
        torch.Size([3, 16])
    """

    def __init__(self, dim: int, codes: int) -> None:
        super().__init__(dim, codes, bias=False)

    def run(self, operator: Callable[..., Result], hidden: torch.Tensor) -> Result:
        """Return what an operator makes of hidden vectors and the weight.

        Args:
            operator: function of hidden vectors (N, D), the weight (V, D) and, where the head has adapters, their
                `low_rank` update of it.
            hidden: (N, D).
        """
        update = head_update(self)
        if update is None:
            return operator(hidden, self.weight)
        return operator(hidden, self.weight, low_rank=update)
