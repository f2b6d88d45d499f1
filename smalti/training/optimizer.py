"""The optimizer of both trainings, and the course of its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from smalti.training.config import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on norms, biases and embeddings of a row a code."""
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
    """Linear warm-up to the peak, then a cosine down to `final_fraction` of it at the last step."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    progress = max(0.0, step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    cosine = config.final_fraction + (1 - config.final_fraction) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * warm * cosine
