"""Tensors that may be sharded by rows over processes: this process's part, the whole, and reading from a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this process's rows, which share the memory of the tensor; a plain tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all rows on the CPU; every process calls this at the same time if the tensor is sharded."""
    full = tensor.detach()
    return (full.full_tensor() if isinstance(full, DTensor) else full).cpu()


def rows(tensor: torch.Tensor) -> slice:
    """Return the rows of the whole tensor that this process holds; all of them for a plain tensor."""
    if not isinstance(tensor, DTensor):
        return slice(0, len(tensor) if tensor.ndim else None)
    for dimension, placement in enumerate(tensor.placements):
        if isinstance(placement, Shard):
            assert placement.dim == 0  # as `fully_shard` cuts
            mesh = tensor.device_mesh
            most = -(-len(tensor) // mesh.size(dimension))  # rows of the first processes, as torch.chunk cuts
            start = min(len(tensor), most * mesh.get_local_rank(dimension))
            return slice(start, min(len(tensor), start + most))
        assert isinstance(placement, Replicate)
    return slice(0, len(tensor))


@torch.no_grad()
def place(target: torch.Tensor, read: Callable[[slice], torch.Tensor]) -> None:
    """Fill a tensor, of which this process may hold some rows only.

    Args:
        target: the tensor, in any dtype and memory layout.
        read: function that returns the given rows of the whole tensor.
    """
    part = local(target)
    values = read(rows(target)) if part.ndim else read(slice(None))
    part.copy_(values)


def like(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return `values`, which are this process's rows, as a tensor that is sharded like another one."""
    if not isinstance(tensor, DTensor):
        return values
    # Shape and strides are given, because the last processes may hold fewer rows.
    return DTensor.from_local(
        values,
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )
