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
from threading import Lock

RIGHT = ("ok", "one line")
KINDS = (*RIGHT, "several lines", "too long", "unnamed", "traceback", "hang", "memory")
"""What a case can end with; the first two are right."""

_LONGEST = 300
_SECONDS = 20.0
_MEMORY_BYTES = 2 * 10**9
_POLL_SECONDS = 0.2
_PROGRESS_SECONDS = 10.0
_CHUNK = 1000  # cases of one child: caches of the libraries grow
_WARNING = re.compile(
    r"^.*:\d+: \w*Warning: ", re.MULTILINE
)  # as Python prints one: two lines that name no option
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Result:
    """The end of a case.

    Attributes:
        family: family of the case.
        number: number of the case in its family.
        kind: one of `KINDS`.
        text: message, or the traceback.
        seconds: time that the command computed; for a hang, time on the clock.
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
    if _WARNING.search(stderr):
        return "several lines"
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
            [sys.executable, str(_HERE / "fuzz_worker.py"), str(base), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **settings},
        )
        self._read = b""
        self._waiting = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._waiting.register(self._process.stdout, selectors.EVENT_READ)

    def run(self, family: str, number: int) -> Result:
        """Run a case; a result of kind "hang", "memory" or "traceback" without an end leaves the child unusable."""
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps([family, number]) + "\n").encode())
        self._process.stdin.flush()
        first = self._line()
        while first is None:
            first = self._line()
        arguments = json.loads(first)["arguments"] if first else []
        started, computed, idle = time.perf_counter(), self._cpu_seconds(), 0.0
        while True:
            end = self._line()
            if end is not None:
                if not end:
                    return Result(family, number, "traceback", "the process ended", 0.0, arguments)
                values = json.loads(end)
                kind = classify(values["code"], values["stderr"], values["error"])
                text = values["error"] or values["stderr"]
                return Result(family, number, kind, text, values["seconds"], arguments)
            seconds = time.perf_counter() - started
            idle += _POLL_SECONDS * self._idle()
            # Beside other work a process may get a fraction of a core: the time that it has computed counts.
            if max(self._cpu_seconds() - computed, idle) > _SECONDS:
                return Result(family, number, "hang", f"more than {_SECONDS} s", seconds, arguments)
            if self._memory() > _MEMORY_BYTES:
                return Result(
                    family, number, "memory", f"more than {_MEMORY_BYTES} bytes", seconds, arguments
                )

    def _line(self) -> bytes | None:
        """Return the next line, b"" after the process has ended, or None if there is none within `_POLL_SECONDS`."""
        assert self._process.stdout is not None
        # Two lines may arrive at once: a buffered reader would hold the second back, and nothing would wake us.
        while b"\n" not in self._read:
            if not self._waiting.select(_POLL_SECONDS):
                return None
            data = os.read(self._process.stdout.fileno(), 2**16)
            if not data:
                return b""
            self._read += data
        line, _, self._read = self._read.partition(b"\n")
        return line + b"\n"

    def _idle(self) -> bool:
        """Return whether the process waits: no thread of it runs, wants to run, or reads from a disk."""
        try:
            threads = list(Path(f"/proc/{self._process.pid}/task").iterdir())
            return bool(threads) and all(_fields(thread)[0] == "S" for thread in threads)
        except OSError:
            return False

    def _cpu_seconds(self) -> float:
        """Return the seconds that the process has computed, or those on the clock where the system does not tell."""
        try:
            fields = _fields(Path(f"/proc/{self._process.pid}"))
        except OSError:
            return time.perf_counter()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

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


def _fields(place: Path) -> list[str]:
    """Return the numbers of a process or a thread in /proc, from its state on."""
    return (place / "stat").read_text().rpartition(")")[2].split()


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
    """Return the number of results of each kind by family, and mean seconds, as a Markdown table."""
    counts: dict[str, Counter[str]] = {}
    seconds: Counter[str] = Counter()
    for result in results:
        for row in (result.family, "all"):
            counts.setdefault(row, Counter())[result.kind] += 1
            seconds[row] += result.seconds
    columns = ["family", "inputs", *KINDS, "mean seconds"]
    rows = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for row in [*(name for name in counts if name != "all"), "all"]:
        found = counts.get(row, Counter())
        numbers = [found.total(), *(found[kind] for kind in KINDS)]
        mean = seconds[row] / max(found.total(), 1)
        rows.append(f"| {row} | {' | '.join(map(str, numbers))} | {mean:.3f} |")
    return "\n".join(rows)


class Progress:
    """A line on stderr every few seconds: how many inputs are done, how many did not end well, how long is left."""

    def __init__(self, total: int) -> None:
        self._total, self._started = total, time.perf_counter()
        self._done = self._bad = 0
        self._shown = self._started
        self._lock = Lock()

    def add(self, result: Result) -> None:
        """Count a result; a result that is wrong gets a line of its own on stdout."""
        with self._lock:
            self._done += 1
            if result.kind not in RIGHT:
                self._bad += 1
                last = (result.text.strip().splitlines() or [""])[-1][:200]
                print(f"{result.family} {result.number}: {result.kind}: {last}", flush=True)
            now = time.perf_counter()
            if now - self._shown < _PROGRESS_SECONDS and self._done < self._total:
                return
            self._shown = now
            taken = now - self._started
            left = taken / self._done * (self._total - self._done)
            print(
                f"{self._done:,} of {self._total:,} inputs, {self._bad} not well, {taken:.0f} s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
