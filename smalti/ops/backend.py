"""Which implementation of an operator's pass runs, plain PyTorch or a Triton kernel, and in which dtypes."""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType

import torch

from smalti.common.checks import quoted
from smalti.errors import SmaltiError


def choose_backend(operator: str, name: str, tensor: torch.Tensor) -> ModuleType:
    """Return the module with an operator's pass for the device and dtype of its input.

    Args:
        operator: name of the operator, "gce" or "sample"; its passes are in smalti/ops/{operator}_torch.py and
            …_triton.py.
        name: "torch", "triton", or "auto". The last means Triton for tensors on a GPU where it is installed. PyTorch
            always computes float64.
        tensor: the operator's input.

    Raises:
        SmaltiError: an unknown name, or "triton" where it cannot run.
    """
    if name not in ("auto", "torch", "triton"):
        raise SmaltiError(f'backend must be "auto", "torch" or "triton", not {quoted(name)}')
    if tensor.dtype == torch.float64 or name == "torch" or (name == "auto" and not tensor.is_cuda):
        return importlib.import_module(f"smalti.ops.{operator}_torch")
    try:
        module = importlib.import_module(f"smalti.ops.{operator}_triton")
    except ImportError as error:
        if name == "triton":
            raise SmaltiError(f'backend "triton" needs the package triton: {error}') from None
        _warn_that_triton_is_missing()
        return importlib.import_module(f"smalti.ops.{operator}_torch")
    if not tensor.is_cuda and not module.INTERPRETED:
        raise SmaltiError(
            f'backend "triton" needs tensors on a GPU, not {tensor.device.type} (or TRITON_INTERPRET=1)'
        )
    return module


@functools.cache
def _warn_that_triton_is_missing() -> None:
    # The stack from here: choose_backend, the operator, the operator's caller.
    warnings.warn(
        "Triton is not installed: operators over the vocabulary run in plain PyTorch, slower", stacklevel=4
    )


def exact_dtype(hidden: torch.Tensor) -> torch.dtype:
    """Return the dtype of everything but products: float64 for float64 inputs, else float32."""
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def product_dtype(hidden: torch.Tensor) -> torch.dtype:
    """Return the dtype of products: autocast's where it is on."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype == torch.float32:
        return torch.get_autocast_dtype(kind)
    return hidden.dtype
