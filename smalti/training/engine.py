"""How the processes of a training compute one gradient: alone, with copies of the model (DDP), or with shards (FSDP2).

A step's images are cut into ranges, one a process, and those into batches. Images of several shapes are cut into
batches of one shape, which are dealt to the processes. Every process computes the same number of batches, because all
of them take part in each exchange. A process that has fewer images repeats one with weight 0.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from smalti.errors import SmaltiError
from smalti.training.config import RunConfig
from smalti.training.distribution import add_up, rank, size, take_from_first
from smalti.training.optimizer import trainable
from smalti.training.sharding import set_all_reduce, shard, shard_modules
from smalti.training.shards import local
from smalti.training.task import BatchLoss, Task


class Part(NamedTuple):
    """A batch of a step.

    Attributes:
        images: numbers of its images.
        counts: whether they count; otherwise they only keep the processes in step.
        last: whether this is the process's last batch of the step.
    """

    images: Sequence[int]
    counts: bool
    last: bool


def divide(
    step: int, images: int, batch_size: int, shapes: Sequence[Hashable] | None = None
) -> Iterator[Part]:
    """Yield this process's batches of a step, as many as every other process has.

    Args:
        step: number of the step, from 0.
        images: images of a step.
        batch_size: most images of a batch.
        shapes: shape of each image of the step, or None if all have one. The images of a batch have one shape.
    """
    first = step * images
    if shapes is not None:
        yield from _divide_by_shape(first, shapes, min(batch_size, math.ceil(images / size())))
        return
    start, end = (first + images * number // size() for number in (rank(), rank() + 1))
    count = math.ceil(math.ceil(images / size()) / batch_size)
    for number in range(count):
        part = range(min(end, start + number * batch_size), min(end, start + (number + 1) * batch_size))
        yield Part(part if len(part) else range(first, first + 1), len(part) > 0, number == count - 1)


def _divide_by_shape(first: int, shapes: Sequence[Hashable], batch_size: int) -> Iterator[Part]:
    """Deal the batches of a step, each of one shape, to the processes in turn."""
    groups: dict[Hashable, list[int]] = {}
    for number, shape in enumerate(shapes, start=first):
        groups.setdefault(shape, []).append(number)
    batches = [
        group[start : start + batch_size]
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    ]
    count = math.ceil(len(batches) / size())
    for number in range(count):
        place = number * size() + rank()
        there = place < len(batches)
        yield Part(batches[place] if there else [first], there, number == count - 1)


class Engine(Protocol):
    """What the trainer needs of a way to compute gradients."""

    sharded: bool

    def backward(self, batch: Any, part: Part, step: int) -> BatchLoss:
        """Compute the loss of a batch and add its gradient. After the last one gradients are summed over processes."""

    def refresh(self) -> None:
        """Forget copies of the weights, which were changed from outside."""


def make_engine(
    task: Task,
    config: RunConfig,
    device: torch.device,
    autocast: Callable[[], contextlib.AbstractContextManager],
) -> Engine:
    """Move the task's model to the device, or shard it, and return what computes its gradients.

    Args:
        task: what is trained.
        config: how it is trained.
        device: this process's device.
        autocast: function that makes the context in which losses are computed.

    Raises:
        SmaltiError: the settings do not fit the number of processes.
    """
    sharded = config.distribution.strategy == "fsdp"
    if config.distribution.replicas > 1 and not sharded:
        raise SmaltiError("distribution.replicas needs distribution.strategy=fsdp")
    if sharded:
        return Shards(task, config, device, autocast)
    dtype = getattr(torch, config.loop.weights)
    for parameter in task.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    task.model.to(device)
    return Copies(task, autocast) if size() > 1 else Alone(task, autocast)


class Alone:
    """A single process."""

    sharded = False

    def __init__(self, task: Task, autocast: Callable[[], contextlib.AbstractContextManager]) -> None:
        self._task, self._autocast = task, autocast

    def backward(self, batch: Any, part: Part, step: int) -> BatchLoss:
        with self._autocast():
            loss = self._task.loss(batch, part.images, step)
        loss.weighted_sum.backward()
        return loss

    def refresh(self) -> None:
        pass


class _LossModule(nn.Module):
    """The loss as a module's forward pass, which DistributedDataParallel wraps."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._task = task

    def forward(self, batch: Any, part: Part, step: int) -> BatchLoss:
        loss = self._task.loss(batch, part.images, step)
        return loss if part.counts else loss._replace(weighted_sum=0 * loss.weighted_sum)


class Copies:
    """A copy of the model in every process, by DistributedDataParallel."""

    sharded = False

    def __init__(self, task: Task, autocast: Callable[[], contextlib.AbstractContextManager]) -> None:
        self._autocast = autocast
        take_from_first([parameter.data for parameter in trainable(task.model).values()])
        self._module = nn.parallel.DistributedDataParallel(
            _LossModule(task),
            find_unused_parameters=not task.steady,
            gradient_as_bucket_view=True,
            init_sync=False,
        )
        self._weights = trainable(task.model)

    def backward(self, batch: Any, part: Part, step: int) -> BatchLoss:
        with contextlib.nullcontext() if part.last else self._module.no_sync():
            with self._autocast():
                loss = self._module(batch, part, step)
            loss.weighted_sum.backward()
        if part.last:
            # DistributedDataParallel divides by the number of processes; the trainer divides by the sum of weights.
            torch._foreach_mul_([p.grad for p in self._weights.values() if p.grad is not None], size())
        return loss

    def refresh(self) -> None:
        pass


class Shards:
    """Shards of weights, gradients and optimizer in every process, by FSDP2."""

    sharded = True

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        device: torch.device,
        autocast: Callable[[], contextlib.AbstractContextManager],
    ) -> None:
        self._task, self._autocast = task, autocast
        shard(task, config, device)

    def backward(self, batch: Any, part: Part, step: int) -> BatchLoss:
        set_all_reduce(self._task.model, part.last)
        with self._autocast():
            loss = self._task.loss(batch, part.images, step)
        weighted_sum = loss.weighted_sum if part.counts else 0 * loss.weighted_sum
        weighted_sum.backward()
        return loss

    def refresh(self) -> None:
        for module in shard_modules(self._task.model):
            module.reshard()


@torch.no_grad()
def normalize_gradients(model: nn.Module, weight: torch.Tensor) -> None:
    """Divide the summed gradients by the sum of weights, a scalar on their device; gradients of nothing are 0."""
    weight = torch.where(weight > 0, weight, torch.ones_like(weight))
    gradients = [local(p.grad) for p in model.parameters() if p.grad is not None]
    for dtype in {gradient.dtype for gradient in gradients}:
        torch._foreach_div_([g for g in gradients if g.dtype == dtype], weight.to(dtype))


def add_up_numbers(numbers: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Return scalars added up over all processes in float64, with one exchange."""
    flat = torch.stack([value.detach().to(device, torch.float64) for value in numbers.values()])
    return dict(zip(numbers, add_up(flat).unbind(), strict=True))
