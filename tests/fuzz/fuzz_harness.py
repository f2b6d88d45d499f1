"""Bad inputs through the command line: each ends well or with one clear line, in bounded time and memory.

A child process runs the cases. It is killed and started again when a case hangs or takes too much memory.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

RIGHT = ("ok", "one line")
KINDS = (*RIGHT, "several lines", "too long", "unnamed", "traceback", "hang", "memory")
"""What a case can end with; the first two are right."""

_LONGEST = 300
_SECONDS = 20.0
_MEMORY_BYTES = 2 * 10**9
_POLL_SECONDS = 0.2
_CHUNK = 400  # cases of one child: caches of the libraries grow
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Result:
    """The end of a case.

    Attributes:
        family: family of the case.
        number: number of the case in its family.
        kind: one of `KINDS`.
        text: message, or the traceback.
        seconds: time of the command.
        arguments: the command line.
    """

    family: str
    number: int
    kind: str
    text: str
    seconds: float
    arguments: list[str] = field(default_factory=list)


def classify(code: object, stderr: str, error: str) -> str:
    """Return the kind of a case's end from its exit code, its messages and the exception that escaped."""
    if error or "Traceback" in stderr:
        return "traceback"
    if code == 0:
        return "ok"
    # Notes of a line each may come before the line that says what is wrong.
    lines = [entry for entry in stderr.splitlines() if entry.strip()]
    if not lines or not all(entry.startswith("smalti: ") for entry in lines):
        return "several lines"
    if len(lines[-1]) >= _LONGEST:
        return "too long"
    return "one line" if _names_something(lines[-1].removeprefix("smalti: ")) else "unnamed"


def _names_something(message: str) -> bool:
    """Return whether a message has words, and more than the name of a Python error."""
    return len(re.findall(r"\w+", message)) >= 3 and not re.match(r"\[Errno|\w+Error\b", message)


class Child:
    """A process that runs cases one by one."""

    def __init__(self, base: Path, seed: int) -> None:
        paths = [
            str(_HERE),
            str(_HERE.parent / "support"),
            str(_HERE.parents[1]),
            os.environ.get("PYTHONPATH", ""),
        ]
        settings = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(_HERE / "fuzz_worker.py"), str(base), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **settings},
        )
        self._waiting = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._waiting.register(self._process.stdout, selectors.EVENT_READ)

    def run(self, family: str, number: int) -> Result:
        """Run a case; a result of kind "hang", "memory" or "traceback" without an end leaves the child unusable."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write((json.dumps([family, number]) + "\n").encode())
        self._process.stdin.flush()
        first = self._process.stdout.readline()  # the first case waits for imports
        arguments = json.loads(first)["arguments"] if first else []
        started = time.perf_counter()
        while True:
            if self._waiting.select(_POLL_SECONDS):
                end = self._process.stdout.readline()
                if not end:
                    return Result(family, number, "traceback", "the process ended", 0.0, arguments)
                values = json.loads(end)
                kind = classify(values["code"], values["stderr"], values["error"])
                text = values["error"] or values["stderr"]
                return Result(family, number, kind, text, values["seconds"], arguments)
            seconds = time.perf_counter() - started
            if seconds > _SECONDS:
                return Result(family, number, "hang", f"more than {_SECONDS} s", seconds, arguments)
            if self._memory() > _MEMORY_BYTES:
                return Result(
                    family, number, "memory", f"more than {_MEMORY_BYTES} bytes", seconds, arguments
                )

    def _memory(self) -> int:
        """Return the bytes that the process holds, or 0 where the system does not tell."""
        try:
            found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self._process.pid}/status").read_text())
        except OSError:
            return 0
        return int(found[1]) * 1024 if found else 0

    def close(self) -> None:
        """End the process."""
        self._waiting.close()
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def run_cases(chosen: Iterable[tuple[str, int]], base: Path, seed: int) -> Iterator[Result]:
    """Run cases, (family, number) each; yield their results in order."""
    child: Child | None = None
    done = 0
    try:
        for family, number in chosen:
            child = child or Child(base, seed)
            result = child.run(family, number)
            done += 1
            yield result
            if result.kind in ("hang", "memory") or result.text == "the process ended" or done % _CHUNK == 0:
                child.close()
                child = None
    finally:
        if child is not None:
            child.close()


def table(results: Iterable[Result]) -> str:
    """Return the number of results of each kind by family, as a Markdown table."""
    counts: dict[str, Counter[str]] = {}
    for result in results:
        for row in (result.family, "all"):
            counts.setdefault(row, Counter())[result.kind] += 1
    rows = ["| family | inputs | " + " | ".join(KINDS) + " |", "| --- " * (len(KINDS) + 2) + "|"]
    for row in [*(name for name in counts if name != "all"), "all"]:
        found = counts.get(row, Counter())
        rows.append(f"| {row} | {found.total()} | " + " | ".join(str(found[kind]) for kind in KINDS) + " |")
    return "\n".join(rows)
