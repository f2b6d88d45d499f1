"""The optimizer of both trainings, its learning rate, and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from smalti.training.config import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only, not on norms, biases and embeddings."""
    decayed = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    }
    groups = [
        {"params": [p for p in model.parameters() if id(p) in decayed], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up to the peak, then a cosine down to `final_fraction` of it."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    progress = max(0.0, step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    cosine = config.final_fraction + (1 - config.final_fraction) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * warm * cosine


@torch.no_grad()
def update_average(average: dict[str, torch.Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Update the exponential moving average of the weights, in place.

    The first steps decay faster, so that the average forgets the random weights.
    """
    decay = min(decay, (1 + step) / (10 + step))
    values = model.state_dict()
    floats = [name for name in average if average[name].is_floating_point()]
    torch._foreach_lerp_([average[name] for name in floats], [values[name] for name in floats], 1 - decay)
