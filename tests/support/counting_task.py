"""A training small enough to compare its steps exactly: every image has another number of masked tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smalti.model.head import Head
from smalti.objective.loss import denoising_loss
from smalti.training.config import LoopConfig, OptimizerConfig, RunConfig
from smalti.training.loop import Trainer
from smalti.training.task import BatchLoss

STEPS, IMAGES = 5, 4


class Model(nn.Module):
    """A head alone."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.head = Head(6, 11)
        nn.init.normal_(self.head.weight, generator=generator)


class CountingTask:
    """Images of different weights: each has another number of masked tokens."""

    data = "numbers"
    steady = True

    def __init__(self, config: RunConfig) -> None:
        generator = torch.Generator().manual_seed(0)
        count = STEPS * IMAGES
        self.inputs = torch.randn(count, 9, 6, generator=generator)
        self.targets = torch.randint(0, 11, (count, 3, 3), generator=generator)
        self.masked = (
            torch.rand(count, 3, 3, generator=generator) < torch.linspace(0, 1, count)[:, None, None]
        )
        self.model = Model(generator)

    def products(self) -> float:
        return 0.0

    def initial_weights(self) -> None:
        return None

    def shapes(self, images: range) -> None:
        return None

    def batch(self, images: range) -> Any:
        part = [number % len(self.inputs) for number in images]
        return self.inputs[part], self.targets[part], self.masked[part]

    def loss(self, batch: Any, images: range, step: int) -> BatchLoss:
        inputs, targets, masked = batch
        loss = denoising_loss(inputs, self.model.head, targets, masked, edit_loss_weight=0.2)
        return BatchLoss(loss.weighted_sum, loss.weight, {"accuracy": loss.accuracy})

    def validate(self) -> dict[str, float]:
        return {}

    def preview(self, path: Path | None) -> dict[str, float]:
        return {}

    def exported(self) -> list[str]:
        return ["head.weight"]

    def export(self, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        folder.mkdir(exist_ok=True)


def make_config(output: str, accumulate: int, processes: int) -> RunConfig:
    loop = LoopConfig(
        steps=STEPS,
        batch_size=IMAGES // accumulate,
        accumulate=accumulate,
        processes=processes,
        precision="float32",
        log_every=1,
    )
    optimizer = OptimizerConfig(learning_rate=0.05, warmup_steps=1, clip_norm=1e6)
    return RunConfig(output=output, optimizer=optimizer, loop=loop)


def run(config: RunConfig) -> dict[str, Any]:
    """Train; a function that other processes can import."""
    return Trainer(CountingTask(config), config).run()
