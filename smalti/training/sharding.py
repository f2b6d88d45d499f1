"""Sharding a denoiser's training with FSDP2: one unit a layer, the embeddings and the head apart.

Each unit's weights are gathered when its turn comes and dropped afterwards. A model on the meta device takes no memory
until it is sharded; each process then fills its own rows alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from smalti.errors import SmaltiError
from smalti.model.backbone import Layer
from smalti.model.head import Head
from smalti.training.config import RunConfig
from smalti.training.distribution import size
from smalti.training.precision import uses_bf16
from smalti.training.shards import place
from smalti.training.task import Task


def make_mesh(config: RunConfig, device: torch.device) -> DeviceMesh:
    """Return the mesh of processes: one dimension, or replicas × shards.

    Raises:
        SmaltiError: the number of processes is no multiple of `distribution.replicas`.
    """
    replicas = config.distribution.replicas
    if size() % replicas:
        raise SmaltiError(
            f"distribution.replicas must divide the number of processes, {size()}, not {replicas}"
        )
    if not dist.is_initialized():
        raise SmaltiError(
            "distribution.strategy=fsdp needs torchrun or loop.processes=2 or more: one process has nothing to shard"
        )
    if replicas > 1:
        return init_device_mesh(
            device.type, (replicas, size() // replicas), mesh_dim_names=("replicas", "shards")
        )
    return init_device_mesh(device.type, (size(),), mesh_dim_names=("shards",))


def shard(task: Task, config: RunConfig, device: torch.device) -> None:
    """Shard the task's model over the processes, in place, and fill it if it is on the meta device.

    Gradients are summed, not averaged, over the processes.

    Raises:
        SmaltiError: the settings do not fit the number of processes, or PyTorch is too old.
    """
    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise SmaltiError(
            f"distribution.strategy=fsdp needs a later PyTorch than {torch.__version__}: "
            "pip install 'smalti[distributed]'"
        )
    # The denoiser's result is a view, which nothing changes in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    mesh, model = make_mesh(config, device), task.model
    dtype = getattr(torch, config.loop.weights)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    # Weights travel in the dtype of the products; sums over processes are in float32.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if uses_bf16(config.loop, device) else None, reduce_dtype=torch.float32
    )
    for module in _units(model):
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=not isinstance(module, Head))
        if isinstance(module, Head):
            register_fsdp_forward_method(module, "run")
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for unit in shard_modules(model):
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    weights = task.initial_weights()
    if weights is not None:
        model.to_empty(device=device)
        parameters = dict(model.named_parameters())
        for name, values in weights:
            place(parameters.pop(name), values.__getitem__)
        assert not parameters, f"without starting weights: {sorted(parameters)}"
    for unit in shard_modules(model):
        # Previews run in inference mode. Memory that is made there could not be used in training afterwards.
        unit.unshard()
        unit.reshard()


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules whose weights are gathered together, the inner ones first."""
    for module in model.modules():
        if isinstance(module, Layer | Head | nn.Embedding):
            yield module


def shard_modules(model: nn.Module) -> Iterator[FSDPModule]:
    """Yield the units of a sharded model and the model itself."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            yield module


def set_all_reduce(model: nn.Module, last: bool) -> None:
    """Exchange gradients between replicas in the last batch of a step only; shards are summed in every batch."""
    assert isinstance(model, FSDPModule)
    model.set_requires_all_reduce(last)
