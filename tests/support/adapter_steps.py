"""Trainings of a tiny adapter: their configuration, and five steps alone or in several processes."""

from __future__ import annotations

from typing import Any

import torch
from trainings import DENOISER, losses, write

from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import DenoiserTask
from smalti.training.loop import Trainer
from smalti.training.preparing import prepare
from smalti.training.reading import load_config

ADAPTER = {"rank": 2, "targets": ["q_proj", "down_proj", "downsample", "head"]}


def configured(
    name: str = "adapter", adapter: dict[str, Any] | None = None, **changes: Any
) -> DenoiserRunConfig:
    """Write NAME.yaml, which adapts the model of the tiny training, and return what it says."""
    values = {
        **DENOISER,
        "output": name,
        "start_from": "denoiser/model",
        "model": {},
        "adapter": {**ADAPTER, **(adapter or {})},
        "loop": {**DENOISER["loop"], "steps": 4, "checkpoint_every": 2, "precision": "float32"},
        "optimizer": {"learning_rate": 0.02, "warmup_steps": 0},
        **changes,
    }
    return load_config(DenoiserRunConfig, write(f"{name}.yaml", values))


def make_task_of(path: str) -> DenoiserTask:
    """Return the task of a configuration's file."""
    config = load_config(DenoiserRunConfig, path)
    return DenoiserTask(config, prepare(config))


def adapter_steps(cases: dict[str, list[str]]) -> dict[str, Any]:
    """Return losses and exported weights of each case, a list of overrides of adapter.yaml."""
    found = {}
    for name, overrides in cases.items():
        config = load_config(
            DenoiserRunConfig, "adapter.yaml", [f"output={name}", "loop.steps=5", *overrides]
        )
        trainer = Trainer(DenoiserTask(config, prepare(config)), config)
        trainer.run()
        weights: dict[str, torch.Tensor] = trainer._exported()
        found[name] = {"losses": losses(name), "weights": weights}
    return found
