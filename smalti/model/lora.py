"""Adapters in a denoiser: which layers can have them, and how they are added, weighted, merged and removed.

A hook adds an adapter's change to its layer's output. The adapter is a child of the layer, whose own tensors keep their
names. Several adapters add their changes to the same frozen matrix. Those of the head join its products in the fused
operators.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from smalti.common.checks import check_choice, check_real, check_whole, quoted
from smalti.common.low_rank import LowRank
from smalti.errors import SmaltiError
from smalti.model.adapter import Adapter, matrix_shape, row_norms

KINDS = ("lora", "rslora", "dora")
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Names of a layer's matrices."""
PARTS = {"downsample": "downsample_gen.downsample.conv", "head": "gen_predictor"}
"""Short names of other modules that can be adapted."""
TARGETS = (*LINEARS, *PARTS)


LARGEST_RANK, LARGEST_ALPHA = 2**16, 1e6
"""Largest r and numerator of s, far beyond known adapters: squares of larger ones overflow."""


@dataclass(frozen=True)
class AdapterShape:
    """Kind and size of an adapter.

    Attributes:
        kind: "lora", "rslora" or "dora".
        rank: r, the rank of the updates.
        alpha: numerator of the updates' factor s.
        targets: matrices that are adapted: names of `TARGETS`.
        dropout: probability that a value is dropped on its way to A, while training.
    """

    kind: str = "lora"
    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = LINEARS
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_whole("rank", self.rank, 1, LARGEST_RANK)
        check_real("alpha", self.alpha, 0, LARGEST_ALPHA, above=True)
        check_real("dropout", self.dropout, 0, 0.99)
        if not self.targets:
            raise SmaltiError("targets must name at least one matrix", argument="targets")
        for target in self.targets:
            if target not in TARGETS:
                raise SmaltiError(
                    f"targets must be among {', '.join(TARGETS)}, not {quoted(target)}", argument="targets"
                )

    @property
    def scale(self) -> float:
        """The factor s."""
        return scale_of(self.kind, self.rank, self.alpha)


def scale_of(kind: str, rank: int, alpha: float) -> float:
    """Return the factor s of an update of a kind."""
    return alpha / math.sqrt(rank) if kind == "rslora" else alpha / rank


def is_adaptable(name: str) -> bool:
    """Return whether the module of a denoiser with this name can be adapted."""
    return name.rpartition(".")[2] in LINEARS or name in PARTS.values()


def find_targets(denoiser: nn.Module, targets: Iterable[str]) -> dict[str, nn.Module]:
    """Return the modules that names of `TARGETS` stand for, by their names in the denoiser.

    Raises:
        SmaltiError: the denoiser has no such module.
    """
    modules = dict(denoiser.named_modules())
    found: dict[str, nn.Module] = {}
    for target in targets:
        place = PARTS.get(target)
        names = [name for name in modules if (name == place if place else name.endswith(f".{target}"))]
        if not names:
            raise SmaltiError(f"targets: the model has no {target} to adapt", argument="targets")
        found |= {name: modules[name] for name in names}
    return found


def attach(module: nn.Module, adapter: Adapter) -> None:
    """Add an adapter to a layer of a denoiser.

    Raises:
        SmaltiError: the adapter's shapes are not those of the layer.
    """
    out, *columns = matrix_shape(module)
    rank = len(adapter.down)
    tail = (1,) * (len(columns) - 1)
    for part, value, expected in (
        ("A", adapter.down, (rank, *columns)),
        ("B", adapter.up, (out, rank, *tail)),
        ("magnitude", adapter.magnitude, (out,)),
    ):
        if value is not None and tuple(value.shape) != expected:
            raise SmaltiError(f"{part} must be {expected}, not {tuple(value.shape)}")
    if not hasattr(module, "adapters"):
        module.adapters = nn.ModuleList()
        module.register_forward_hook(_add_changes)
    cast(nn.ModuleList, module.adapters).append(adapter.train(module.training))


def _add_changes(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """Add what the adapters of a layer change in its output."""
    result = output
    for adapter in adapters_of(module):
        result = result + adapter(inputs[0], output, module)
    return result


def adapters_of(module: nn.Module) -> Sequence[Adapter]:
    """Return the adapters of a layer, the first attached first; none where it has none."""
    return cast(Sequence[Adapter], getattr(module, "adapters", ()))


def adapted_layers(denoiser: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a denoiser that have adapters, with their names."""
    for name, module in denoiser.named_modules():
        if adapters_of(module):
            yield name, module


def all_adapters(denoiser: nn.Module) -> Iterator[Adapter]:
    """Yield every adapter of a denoiser."""
    for _, layer in adapted_layers(denoiser):
        yield from adapters_of(layer)


def labelled_adapters(denoiser: nn.Module, label: str = "default") -> dict[str, Adapter]:
    """Return the adapters of a denoiser with a label, by the names of their layers."""
    return {
        name: adapter
        for name, layer in adapted_layers(denoiser)
        for adapter in adapters_of(layer)
        if adapter.label == label
    }


def head_update(head: nn.Module) -> LowRank | None:
    """Return what the adapters of a head change in its products, or None; operators add it to the logits."""
    adapters = adapters_of(head)
    if not adapters:
        return None
    factors = [adapter.row_factor(head) for adapter in adapters]
    ups, scale = [], None
    for adapter, factor in zip(adapters, factors, strict=True):
        up = adapter.up * (adapter.scale * adapter.strength)
        if factor is not None:
            up = factor[:, None] * up
            change = (factor - 1) * adapter.strength
            scale = 1 + change if scale is None else scale + change
        ups.append(up)
    dropout = max(adapter.dropout for adapter in adapters) if head.training else 0.0
    return LowRank(torch.cat([adapter.down for adapter in adapters]), torch.cat(ups, dim=1), scale, dropout)


def add_adapters(denoiser: nn.Module, shape: AdapterShape, generator: torch.Generator) -> None:
    """Freeze a denoiser and add new adapters to it, the only parts with gradients; they change nothing yet.

    Args:
        denoiser: the denoiser, changed in place.
        shape: kind, size and targets of the adapters.
        generator: source of the numbers of every A, on the CPU; every B is 0.

    Raises:
        SmaltiError: the denoiser lacks a target.

    Example:
        >>> import smalti
        >>> denoiser = smalti.load("scenes").denoiser
        >>> add_adapters(denoiser, AdapterShape(rank=4, targets=("q_proj", "head")), torch.Generator())
        >>> sum(p.numel() for p in denoiser.parameters() if p.requires_grad)
        33792
    """
    layers = find_targets(denoiser, shape.targets)
    denoiser.requires_grad_(False)
    for module in layers.values():
        out, *columns = matrix_shape(module)
        place = next(module.parameters()).device
        bound = math.prod(columns) ** -0.5
        down = torch.empty(shape.rank, *columns).uniform_(-bound, bound, generator=generator)
        up = torch.zeros(out, shape.rank, *[1] * (len(columns) - 1), device=place)
        magnitude = row_norms(module) if shape.kind == "dora" else None
        attach(module, Adapter(down.to(place), up, magnitude, scale=shape.scale, dropout=shape.dropout))


def set_strength(denoiser: nn.Module, label: str, strength: float) -> None:
    """Set the factor of what the adapters with a label change; 1 is all of it, 0 nothing."""
    for adapter in all_adapters(denoiser):
        if adapter.label == label:
            adapter.strength.fill_(strength)


@contextmanager
def adapters_off(denoiser: nn.Module) -> Iterator[None]:
    """Let a denoiser compute without its adapters while the block runs."""
    before = {adapter: adapter.strength.clone() for adapter in all_adapters(denoiser)}
    for adapter in before:
        adapter.strength.zero_()
    try:
        yield
    finally:
        for adapter, strength in before.items():
            adapter.strength.copy_(strength)


@torch.no_grad()
def merge_adapters(denoiser: nn.Module) -> None:
    """Add the adapters of a denoiser to its matrices, in place, and remove them.

    Raises:
        SmaltiError: an adapted layer is quantized, so that its matrix cannot take the sum.
    """
    layers = list(adapted_layers(denoiser))
    for name, layer in layers:
        if not isinstance(getattr(layer, "weight", None), torch.Tensor):
            raise SmaltiError(f"{name} is quantized: adapters are merged into float weights alone")
    for _, layer in layers:
        weight = cast(torch.Tensor, layer.weight)
        changes = [adapter.difference(layer) for adapter in adapters_of(layer)]
        weight.copy_(weight.float() + torch.stack(changes).sum(dim=0))
        remove_adapters(layer)


def remove_adapters(layer: nn.Module) -> None:
    """Remove the adapters of a layer."""
    del layer.adapters
    hooks: Mapping[int, object] = layer._forward_hooks
    for key in [key for key, hook in hooks.items() if hook is _add_changes]:
        del layer._forward_hooks[key]
