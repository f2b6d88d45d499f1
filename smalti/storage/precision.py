"""The dtype that a denoiser computes in."""

from __future__ import annotations

import torch

from smalti.common.checks import quoted
from smalti.common.devices import can_compute
from smalti.errors import SmaltiError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def default_dtype(place: torch.device, limited: bool) -> torch.dtype:
    """Return the denoiser's dtype where none is asked for; `limited` says whether its memory is."""
    if place.type == "cpu":
        return torch.bfloat16 if limited else torch.float32
    return torch.bfloat16 if can_compute(place, torch.bfloat16) else torch.float16


def known_dtype(dtype: object, place: torch.device) -> torch.dtype:
    """Return PyTorch's dtype of a name, or the dtype itself.

    Raises:
        SmaltiError: there is none of this name, or the device cannot compute in it.
    """
    precision = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if not isinstance(precision, torch.dtype) or precision not in DTYPES.values():
        raise SmaltiError(
            f"dtype must be {' or '.join(DTYPES)}, not {dtype if isinstance(dtype, torch.dtype) else quoted(dtype)}"
        )
    if not can_compute(place, precision):
        raise SmaltiError(
            f"dtype must be one that device {place} computes in, not {str(precision).removeprefix('torch.')}",
            argument="dtype",
        )
    return precision
