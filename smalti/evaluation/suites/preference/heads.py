"""Heads of scorers: linear layers whose sizes the weights themselves tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from smalti.errors import SmaltiError


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of all safetensors files of a folder by name.

    Raises:
        SmaltiError: the folder has no such file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SmaltiError(f"{folder} has no .safetensors file", argument="weights")
    found: dict[str, torch.Tensor] = {}
    for path in files:
        found |= load_file(path)
    return found


def split_head(
    tensors: Mapping[str, torch.Tensor], prefix: str, activation: Callable[[], nn.Module] | None
) -> tuple[dict[str, torch.Tensor], nn.Sequential]:
    """Return the other tensors, and the head whose layers are `PREFIX<number>.weight` and `.bias`, in float32.

    Args:
        tensors: tensors by name.
        prefix: start of the names of the head's tensors.
        activation: maker of what is between two layers; None means nothing.

    Raises:
        SmaltiError: there is no head.

    Example:
        >>> tensors = {"head.0.weight": torch.zeros(4, 8), "head.2.weight": torch.zeros(1, 4), "x": torch.zeros(1)}
        >>> split_head(tensors, "head.", None)[1]
        Sequential(
          (0): Linear(in_features=8, out_features=4, bias=False)
          (1): Linear(in_features=4, out_features=1, bias=False)
        )
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.weight")
    numbers = sorted(int(match[1]) for name in tensors if (match := pattern.fullmatch(name)))
    if not numbers:
        raise SmaltiError(f"weights must have a head, tensors {prefix}0.weight and so on", argument="weights")
    layers: list[nn.Module] = []
    for place, number in enumerate(numbers):
        weight, bias = (tensors.get(f"{prefix}{number}.{kind}") for kind in ("weight", "bias"))
        assert weight is not None
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        state = {"weight": weight.float()} | ({} if bias is None else {"bias": bias.float()})
        layer.load_state_dict(state, assign=True)
        layers += [activation()] if activation is not None and place else []
        layers.append(layer)
    body = {name: one for name, one in tensors.items() if not name.startswith(prefix)}
    return body, nn.Sequential(*layers)
