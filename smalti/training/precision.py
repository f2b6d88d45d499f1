"""The dtype in which a training computes products."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch

from smalti.common.devices import has_bf16
from smalti.training.config import LoopConfig


def uses_bf16(loop: LoopConfig, device: torch.device) -> bool:
    """Return whether matrix products are in bfloat16."""
    return loop.precision == "bf16" or (loop.precision == "auto" and has_bf16(device))


def make_autocast(loop: LoopConfig, device: torch.device) -> Callable[[], contextlib.AbstractContextManager]:
    """Return a function that makes the context in which losses are computed."""
    if uses_bf16(loop, device):
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext
