"""Five steps of a tiny denoiser, however its images are divided: what the processes compute, to be compared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from trainings import losses

from smalti.training import loop
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import DenoiserTask
from smalti.training.loop import Trainer
from smalti.training.optimizer import take_step, trainable
from smalti.training.preparing import prepare
from smalti.training.reading import load_config
from smalti.training.shards import local, whole

COMMON = [
    "loop.precision=float32",
    "loop.steps=5",
    "loop.preview_every=100",
    "loop.checkpoint_every=100",
    "loop.batch_size=4",
    "validation.images=3",
    "objective.group_weights={4: 0.2}",
    "objective.self_generated={share: 0.5, passes: 1, start_step: 2}",
]


def five_steps(name: str, overrides: list[str], frozen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Train from random weights, and return the losses, the first gradient, the last weights and this rank's bytes."""
    config = load_config(DenoiserRunConfig, "denoiser.yaml", [*COMMON, f"output={name}", *overrides])
    task = DenoiserTask(config, prepare(config))
    for key, parameter in task.model.named_parameters():
        if key in frozen:
            parameter.requires_grad_(False)
    trainer = Trainer(task, config)
    gradients: list[dict[str, torch.Tensor]] = []
    held: list[dict[str, int]] = []

    def remember(*arguments: Any) -> None:
        found = {key: value.grad for key, value in trainable(task.model).items() if value.grad is not None}
        gradients.append({key: whole(value) for key, value in found.items()})
        bytes_of = {"gradients": sum(local(value).nbytes for value in found.values())}
        take_step(*arguments)
        bytes_of["weights"] = sum(local(value).nbytes for value in trainable(task.model).values())
        bytes_of["optimizer"] = sum(
            local(value).nbytes
            for state in trainer.optimizer.state.values()
            for value in state.values()
            if value.ndim
        )
        held.append(bytes_of)

    loop.take_step = remember
    try:
        entry = trainer.run()
    finally:
        loop.take_step = take_step
    weights = {key: whole(value.detach()) for key, value in task.model.named_parameters()}
    return {
        "losses": losses(name),
        "gradient": gradients[0],
        "weights": weights,
        "bytes": held[-1],
        "validation": entry["validation_loss"],
        "average": {key: whole(value) for key, value in trainer.average.values.items()},
    }


def several(cases: dict[str, tuple[list[str], tuple[str, ...]]]) -> dict[str, Any]:
    """Return `five_steps` of each case."""
    found = {name: five_steps(name, *case) for name, case in cases.items()}
    return found


def clear(names: list[str]) -> None:
    """Delete runs."""
    for name in names:
        shutil.rmtree(Path(name), ignore_errors=True)
