"""Where results go: names of files, checks before the work starts, progress, memory."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from smalti.errors import SmaltiError


def check_writable(path: Path, suffix: str, option: str) -> None:
    """Raise SmaltiError unless a file with this name can be written, so that no work is done in vain."""
    if path.suffix.lower() != suffix:
        raise SmaltiError(f"{option} must name a {suffix} file, not {str(path)!r}")
    if path.is_dir():
        raise SmaltiError(f"{option} must name a file, but {path} is a folder")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise SmaltiError(f"{option} cannot be written: {path}: {error.strerror or error}") from error


def numbered(path: Path, count: int) -> list[Path]:
    """The path itself for one picture; stem-0, stem-1, ... for more."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{index}{path.suffix}") for index in range(count)]


def shows_progress(json: bool) -> bool:
    """Whether somebody is looking: progress goes to a terminal, never to a file or beside JSON."""
    return sys.stderr.isatty() and not json


def peak_memory_mb(device: str) -> float:
    """The most memory this process has held so far, in MB (10⁶ bytes): on the GPU if there is one in use."""
    if device.startswith("cuda"):
        import torch

        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    try:
        # Unlike ru_maxrss this does not start from what the parent process held.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    except OSError:
        pass
    if os.name == "nt":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
