"""The training loop of the scorer's two networks: AdamW, averaged weights, and a state file to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from smalti.common.files import atomic_path

_WARMUP = 0.05  # share of the steps
_AVERAGED = 0.998  # share that the averaged weights keep at each step, less in the first ones
_SAVED = 60  # seconds between two states


N = TypeVar("N", bound=nn.Module)


def fit(
    network: N,
    loss_of: Callable[[nn.Module, int], torch.Tensor],
    steps: int,
    *,
    rate: float,
    state: Path,
    start: N | None = None,
    show: bool = True,
) -> N:
    """Return the network with averaged weights after so many steps; a state file is gone on from.

    Args:
        network: network to train, in place.
        loss_of: loss of the network in a step by number, which alone decides the batch.
        steps: number of steps.
        rate: highest learning rate of AdamW; it rises, then falls along a cosine.
        state: file of the weights, their averages and the optimizer; written every minute and at the end.
        start: network whose weights are the first.
        show: whether a progress bar is shown.
    """
    network.to(memory_format=torch.channels_last)
    if start is not None:
        network.load_state_dict(start.state_dict())
    averaged = AveragedModel(network, avg_fn=_average, use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
    first = _load(state, network, averaged, optimizer) if state.exists() else 0
    smooth, saved = 0.0, time.monotonic()
    network.train()
    progress = tqdm(range(first, steps), initial=first, total=steps, disable=not show, mininterval=10)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = rate * _share_of_rate(step / steps)
        torch.manual_seed(step)  # dropout too depends on the step alone
        loss = loss_of(network, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update_parameters(network)
        smooth += (loss.item() - smooth) / min(step - first + 1, 100)
        progress.set_postfix(loss=f"{smooth:.3f}", refresh=False)
        if time.monotonic() - saved > _SAVED:
            _save(state, step + 1, network, averaged, optimizer)
            saved = time.monotonic()
    if first < steps:
        _save(state, steps, network, averaged, optimizer)
    network.load_state_dict(averaged.module.state_dict())
    return network.eval()


def _share_of_rate(done: float) -> float:
    """Return the learning rate in highest ones, after a share of the steps."""
    if done < _WARMUP:
        return 0.02 + done / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * (done - _WARMUP) / (1 - _WARMUP)))


def _average(average: torch.Tensor, current: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """Return the moving average after a step; counters are taken as they are."""
    if not average.is_floating_point():
        return current
    kept = min(_AVERAGED, (1 + int(count)) / (10 + int(count)))
    return torch.lerp(current, average, kept)


def _save(
    path: Path, step: int, network: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"averaged.{name}": value for name, value in averaged.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(
            {name: value.clone().contiguous() for name, value in tensors.items()},
            temporary,
            {"step": str(step)},
        )


def _load(path: Path, network: nn.Module, averaged: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    parts: dict[str, dict[str, torch.Tensor]] = {"network": {}, "averaged": {}, "optimizer": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    network.load_state_dict(parts["network"])
    averaged.load_state_dict(parts["averaged"])
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in parts["optimizer"].items():
        number, _, rest = name.partition(".")
        moments.setdefault(int(number), {})[rest] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return step
