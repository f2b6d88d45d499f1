"""The memory that this process may use, the machine's or less by a container's limits, and what it gives back."""

from __future__ import annotations

from pathlib import Path

import pytest

from smalti.common.host import host_bytes, return_memory

GB = 10**9


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, content in {
        "proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {8 * GB // 1024} kB\n",
        **files,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GB // 1024 * 1024),
        ({"proc/self/cgroup": "0::/\n"}, 8 * GB // 1024 * 1024),
        # Version 2, in a container: its limit is at the mount.
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{4 * GB}\n",
                "sys/fs/cgroup/memory.current": f"{3 * GB}\n",
                "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GB}\n",
            },
            2 * GB,
        ),
        # Version 2, on the host: a parent's limit holds, and a group without one says "max".
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.current": f"{GB}\n",
                "sys/fs/cgroup/a/memory.max": f"{3 * GB}\n",
                "sys/fs/cgroup/a/memory.current": f"{GB}\n",
            },
            2 * GB,
        ),
        # Version 1: the path of the host is not there, and no limit is a number near 2**63.
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/1\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{5 * GB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{6 * GB}\n",
                "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {3 * GB}\n",
            },
            2 * GB,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{6 * GB}\n",
            },
            8 * GB // 1024 * 1024,
        ),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert host_bytes(machine(tmp_path, files)) == expected


def test_elsewhere_it_is_unknown(tmp_path: Path) -> None:
    assert host_bytes(tmp_path) is None


def test_memory_is_returned() -> None:
    return_memory()
    with pytest.MonkeyPatch.context() as context:
        context.setattr("ctypes.CDLL", lambda _: object())  # another C library
        return_memory()
