"""The optimizer of both trainings, its learning rate, and the moving average of the weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from smalti.errors import SmaltiError
from smalti.runtime.quantization import import_torchao
from smalti.training.config import OptimizerConfig
from smalti.training.muon import Muon
from smalti.training.shards import like, local

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of the two moments that AdamW keeps of every parameter."""


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return an optimizer with weight decay on matrices only, not on norms, biases and embeddings.

    With Muon, the matrices of repeated layers have orthogonal updates. Embeddings have a learning rate of their own.

    Raises:
        SmaltiError: the optimizer needs torchao, which is not installed.
    """
    decayed = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    }
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    trained = list(trainable(model).values())
    repeated: set[int] = set()
    if config.kind == "muon":
        repeated = {
            id(module.weight)
            for layers in model.modules()
            if isinstance(layers, nn.ModuleList)
            for module in layers.modules()
            if isinstance(module, nn.Linear)
        }
    groups = [
        {
            "params": [p for p in trained if id(p) in repeated],
            "weight_decay": config.weight_decay,
            "orthogonal": True,
        },
        {
            "params": [p for p in trained if id(p) in decayed - repeated],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in trained if id(p) not in decayed | embeddings], "weight_decay": 0.0},
        {
            "params": [p for p in trained if id(p) in embeddings],
            "weight_decay": 0.0,
            "factor": config.embedding_factor,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if config.kind == "muon":
        return Muon(groups, lr=config.learning_rate, betas=config.betas)
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    return _make_8bit(groups, config)


def _make_8bit(groups: list[dict], config: OptimizerConfig) -> torch.optim.Optimizer:
    try:
        import_torchao()
    except SmaltiError as error:
        raise SmaltiError("optimizer.kind adamw8bit needs torchao: pip install 'smalti[quantize]'") from error
    from torchao.optim import AdamW8bit

    return AdamW8bit(groups, lr=config.learning_rate, betas=config.betas, bf16_stochastic_round=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step, times the factor of each group that has one."""
    for group in optimizer.param_groups:
        own = rate * group.get("factor", 1.0)
        # A number in a tensor's place would be compiled into torchao's step.
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def take_step(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Take a step and forget the gradients."""
    # torchao compiles its step, which on a CPU takes longer than a small training.
    eager = device.type == "cpu" and not isinstance(optimizer, torch.optim.AdamW)
    with torch.compiler.set_stance("force_eager") if eager else contextlib.nullcontext():
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """Return the number of steps and both moments of a parameter in plain numbers; {} before its first step.

    Moments in 8 bits are rounded once more when they are set again.
    """
    state = optimizer.state.get(parameter, {})
    found = {key: state[key] for key in ("step", *MOMENTS) if key in state}
    # In plain numbers all moments of a model could be more than fits beside it, so they are converted on the CPU.
    return {
        key: like(value, _plain(value.to_local())) if isinstance(value, DTensor) else _plain(value.cpu())
        for key, value in found.items()
    }


def set_moments(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, values: dict[str, torch.Tensor]
) -> None:
    """Give a parameter what `moments` returned, in the optimizer's own form."""
    state = optimizer.state[parameter]
    for key in MOMENTS:
        if hasattr(optimizer, "_new_buffer"):  # torchao's optimizers, which quantize what they are given
            state[key] = optimizer._new_buffer(parameter, key == "exp_avg")
        else:
            # The fused optimizer walks through memory, so moments need the memory layout of their parameter.
            state[key] = torch.empty_like(parameter)
        local(state[key]).copy_(local(values[key]).to(parameter.device))
    # The fused optimizer needs the step number on the parameter's device, torchao's on the CPU.
    place = "cpu" if hasattr(optimizer, "_new_buffer") else parameter.device
    state["step"] = values["step"].to(place, torch.float32)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of plain numbers; moments in 8 bits are converted to float32."""
    if hasattr(tensor, "codes"):
        return tensor.dequantize(torch.float32)  # type: ignore[call-arg]  # torchao's tensor, not PyTorch's
    return tensor.detach()


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step: linear warm-up to the peak, then a cosine down to `final_fraction` of it."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    progress = max(0.0, step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    cosine = config.final_fraction + (1 - config.final_fraction) * (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * warm * cosine


class MovingAverage:
    """The exponential moving average of the trained weights, in float32, sharded like them.

    Args:
        model: the model; its trained parameters are averaged.
        decay: decay of a step; 0 keeps no average, and the weights stand for it.

    Attributes:
        values: the averages by the names of the parameters; none at a decay of 0.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._weights, self._decay = trainable(model), decay
        self.values: dict[str, torch.Tensor] = {}
        if decay:
            self.values = {name: _copy(value) for name, value in self._weights.items()}

    @torch.no_grad()
    def start_again(self) -> None:
        """Set the averages to the weights."""
        for name, value in self.values.items():
            local(value).copy_(local(self._weights[name]))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after step number `step`. The first steps decay faster, to forget the random weights."""
        if not self.values:
            return
        decay = min(self._decay, (1 + step) / (10 + step))
        averages = [local(value) for value in self.values.values()]
        weights = [local(self._weights[name]).to(torch.float32) for name in self.values]
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averages inside the block."""
        kept = {}
        with torch.no_grad():
            for name, value in self.values.items():
                weight = local(self._weights[name])
                kept[name] = weight.clone()
                weight.copy_(local(value))
        try:
            yield
        finally:
            with torch.no_grad():
                for name, before in kept.items():
                    local(self._weights[name]).copy_(before)


def _copy(parameter: nn.Parameter) -> torch.Tensor:
    return like(parameter, local(parameter).detach().to(torch.float32, copy=True))
