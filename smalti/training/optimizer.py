"""The optimizers of both trainings, and the course of the learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from smalti.errors import SmaltiError
from smalti.training.config import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The configured optimizer; weight decay on matrices only, not on norms, biases and embeddings of a row a code.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) takes the matrices of the layers, its steps
    scaled to the size of AdamW's (Moonlight, arXiv 2502.16982) so that one learning rate serves both; embeddings, the
    head, convolutions and norms stay with AdamW.
    """
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, layers)}
    hidden = {
        id(module.weight)
        for name, module in model.named_modules()
        if config.kind == "muon" and isinstance(module, nn.Linear) and "layers." in name
    }
    groups = [
        {
            "params": [p for p in model.parameters() if id(p) in decayed - hidden],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in model.parameters() if id(p) not in decayed], "weight_decay": 0.0},
    ]
    rate = config.learning_rate
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=rate, betas=config.betas, fused=True)
    ]
    if config.kind == "muon":
        matrices = [p for p in model.parameters() if id(p) in hidden]
        if not matrices:
            raise SmaltiError("optimizer.kind muon needs a model with transformer layers; use adamw")
        optimizers.append(
            torch.optim.Muon(
                matrices, lr=rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return Optimizer(optimizers)


class Optimizer:
    """One or several optimizers, each with its own parameters, stepped as one."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers

    def set_learning_rate(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def state_of(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """What the optimizer remembers of a parameter, by name; empty before its first step."""
        return next((o.state[parameter] for o in self.optimizers if parameter in o.state), {})

    def set_state(self, parameter: nn.Parameter, state: dict[str, torch.Tensor]) -> None:
        for optimizer in self.optimizers:
            if any(parameter is own for group in optimizer.param_groups for own in group["params"]):
                optimizer.state[parameter] = state


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Linear warm-up to the peak, then a cosine down to `final_fraction` of it at the last step."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    progress = max(0.0, step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    cosine = config.final_fraction + (1 - config.final_fraction) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * warm * cosine
