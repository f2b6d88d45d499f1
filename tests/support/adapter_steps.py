"""Five steps of a tiny adapter, alone or in several processes, and what they leave."""

from __future__ import annotations

from typing import Any

import torch
from trainings import losses

from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import DenoiserTask
from smalti.training.loop import Trainer
from smalti.training.preparing import prepare
from smalti.training.reading import load_config


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
