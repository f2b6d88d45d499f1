"""The host's memory: what this process may use, and what it gives back."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

# Files of a control group by version: its limit, its use, and the name in memory.stat of what can be dropped.
_GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def host_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes of the host's memory that this process can still take, or None if unknown.

    Containers have limits of their own (Linux control groups, version 1 or 2); the smallest number counts.

    Args:
        root: folder that holds `proc` and `sys`.
    """
    found = [*_available(root), *_left_in_groups(root)]
    return min(found) if found else None


def return_memory() -> None:
    """Give the memory of objects that are gone back to the system.

    The allocator of glibc otherwise keeps what it took in pieces below 32 MB. Elsewhere only garbage is collected.

    Example:
        >>> return_memory()
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return
    trim(0)


def _available(root: Path) -> Iterator[int]:
    """Yield what the machine has left."""
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield what each limited control group of this process has left."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        # A parent's limit holds for its children. Inside a container the path may be that of the host, and only the
        # mount's own files exist.
        inner = Path(path.lstrip("/"))
        for folder in (mount / inner, *(mount / parent for parent in inner.parents)):
            yield from _left(folder, version)


def _left(folder: Path, version: int) -> Iterator[int]:
    """Yield the bytes below the limit of a control group, if it has one; cached files do not count as used."""
    limit, use, dropped = _GROUP_FILES[version]
    numbers = [line for name in (limit, use) for line in _lines(folder / name)[:1]]
    if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
        words = (line.split() for line in _lines(folder / "memory.stat"))
        cached = sum(int(pair[1]) for pair in words if len(pair) == 2 and pair[0] == dropped)
        yield max(int(numbers[0]) - max(int(numbers[1]) - cached, 0), 0)


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of the system, none if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
