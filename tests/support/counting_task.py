"""A training small enough to compare its steps exactly, whose batches are parts of the same data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from smalti.objective.loss import denoising_loss
from smalti.training.config import LoopConfig, OptimizerConfig, RunConfig
from smalti.training.loop import BatchLoss, Trainer

STEPS, IMAGES = 5, 4


class CountingTask:
    """Batches of different weights: every image has another number of masked tokens."""

    data = "numbers"

    def __init__(self, config: RunConfig) -> None:
        generator = torch.Generator().manual_seed(0)
        count = STEPS * IMAGES
        self.size = config.loop.batch_size
        self.inputs = torch.randn(count, 9, 6, generator=generator)
        self.targets = torch.randint(0, 11, (count, 3, 3), generator=generator)
        self.masked = (
            torch.rand(count, 3, 3, generator=generator) < torch.linspace(0, 1, count)[:, None, None]
        )
        self.model = nn.Linear(6, 11, bias=False)
        nn.init.normal_(self.model.weight, generator=generator)

    def batch(self, index: int) -> Any:
        part = slice(index * self.size, (index + 1) * self.size)
        return self.inputs[part], self.targets[part], self.masked[part]

    def loss(self, batch: Any, index: int, step: int) -> BatchLoss:
        inputs, targets, masked = batch
        loss = denoising_loss(inputs, self.model.weight, targets, masked, edit_loss_weight=0.2)
        return BatchLoss(loss.weighted_sum, loss.weight, {})

    def preview(self, average: dict[str, torch.Tensor], path: Path) -> dict[str, float]:
        return {}

    def export(self, average: dict[str, torch.Tensor], folder: Path) -> None:
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
    return RunConfig(output=output, loop=loop, optimizer=optimizer)


def run(config: RunConfig) -> dict[str, Any]:
    return Trainer(CountingTask(config), config).run()
