"""Measure what the command line takes to start, against its libraries alone.

python benchmarks/startup.py [--repeats 7] [--json]

Every program runs in a process of its own, in turns, round after round. A time is the process's own processor time,
the median of its rounds, with one thread. The first round only writes bytecode and is not counted.

`help` is `smalti --help`, `libraries` imports typer and rich. `generate` draws one image with the shapes model,
`torch` imports PyTorch. `drawing` is the drawing alone, prompt to pixels, inside such a process. What `generate`
spends beside PyTorch and drawing is the difference.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPT = "a red circle left of a blue square"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--draw", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        print(drawing())
        return
    report = measure(options.repeats)
    if options.json:
        print(json.dumps(report))
        return
    for name, seconds in report["seconds"].items():
        print(f"{name:<10} {seconds:.3f} s")
    print(f"help over libraries: {report['help_over_libraries']:.2f}")
    print(f"generate beside PyTorch and drawing: {report['generate_beside']:.3f} s")


def measure(repeats: int) -> dict[str, Any]:
    """Return the median seconds of each program, and the two numbers that they give."""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "smalti"]
        programs = {
            "libraries": [sys.executable, "-c", "import typer, rich"],
            "help": [*run, "--help"],
            "torch": [sys.executable, "-c", "import torch"],
            "drawing": [sys.executable, __file__, "--draw"],
            "generate": [
                *run,
                "generate",
                PROMPT,
                "--model",
                "scenes",
                "--seed",
                "0",
                "-o",
                f"{folder}/image.png",
            ],
        }
        found: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(repeats + 1):
            for name, program in programs.items():
                seconds, printed = processor_seconds(program, folder)
                found[name].append(float(printed) if name == "drawing" else seconds)
    seconds = {name: statistics.median(times[1:]) for name, times in found.items()}
    return {
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "help_over_libraries": round(seconds["help"] / seconds["libraries"], 3),
        "generate_beside": round(seconds["generate"] - seconds["torch"] - seconds["drawing"], 4),
    }


def processor_seconds(program: list[str], folder: str) -> tuple[float, str]:
    """Return the processor time of a program and what it printed; bytecode goes to `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    before = os.times()
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(program)} failed: {done.stderr}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, done.stdout


def drawing() -> float:
    """Return the processor time of one drawing, the process's first."""
    import smalti

    pipe = smalti.load("scenes")
    started = time.process_time()
    pipe(PROMPT, seed=0)
    return time.process_time() - started


if __name__ == "__main__":
    main()
