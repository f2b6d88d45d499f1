"""Devices: which exist, their free memory and their arithmetic."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch

from smalti.common.checks import quoted
from smalti.common.host import host_bytes
from smalti.errors import SmaltiError

_LONGEST_REASON = 120


def find_device(device: str | torch.device) -> torch.device:
    """Return the device of a name.

    Raises:
        SmaltiError: PyTorch has no such device here, or the device holds no numbers.
    """
    if not isinstance(device, str | int | torch.device):
        raise SmaltiError(
            f"device must be one that PyTorch has here, such as cpu, not {quoted(device)}", argument="device"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that PyTorch is about to drop
            place = torch.device(device)
            torch.empty(0, device=place)
    except Exception as error:  # a backend that is absent may raise anything, ModuleNotFoundError included
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        reason = reason if len(reason) <= _LONGEST_REASON else reason[: _LONGEST_REASON - 3] + "..."
        raise SmaltiError(
            f"device must be one that PyTorch has here, such as cpu, not {quoted(str(device))}: {reason}",
            argument="device",
        ) from error
    if place.type == "meta":
        raise SmaltiError("device must be one that holds numbers, not 'meta'", argument="device")
    return place


def has_bf16(device: torch.device) -> bool:
    """Return whether the device has instructions for matrix products in bfloat16."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # PyTorch answers for the current device
            return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def can_compute(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the device multiplies matrices of a dtype; Apple's lack bfloat16 before macOS 14, for example."""
    if device.type in ("cpu", "cuda"):
        return True
    try:
        one = torch.ones(1, 1, dtype=dtype, device=device)
        return bool((one @ one == 1).all())
    except (RuntimeError, TypeError):
        return False


def autocast_off(*devices: torch.device) -> contextlib.ExitStack:
    """Return a context in which autocast is off on these devices, whatever the caller has switched on.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16), autocast_off(torch.device("cpu")):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    stack = contextlib.ExitStack()
    for kind in {device.type for device in devices}:
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    return stack


def free_bytes(device: torch.device) -> int | None:
    """Return the free bytes of a GPU, or None for other devices."""
    return torch.cuda.mem_get_info(device.index)[0] if device.type == "cuda" else None


def available_bytes(device: torch.device) -> int | None:
    """Return the bytes that this process can still take on a device now, or None where that is unknown.

    On a GPU, memory that PyTorch holds but does not use counts as free, and a limit of its allocator is kept.
    """
    if device.type == "cpu":
        return host_bytes()
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(device)
    return max(0, min(free + reserved - allocated, int(fraction * total) - allocated))


@contextlib.contextmanager
def exact_convolutions() -> Iterator[None]:
    """Compute float32 convolutions in float32 inside the block, not in TF32, whose mantissa has 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
