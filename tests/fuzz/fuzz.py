"""`make fuzz`: thousands of bad inputs, and a table of how they ended."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from fuzz_commands import make_base
from fuzz_families import FAMILIES, cases
from fuzz_harness import RIGHT, Progress, Result, run_cases, table

_SLOWEST = 5  # inputs that are named


def main() -> int:
    """Run the cases that the command line asks for; return 1 if one did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs")
    parser.add_argument("--family", choices=FAMILIES, help="one family alone")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--save", type=Path, help="JSON lines of the inputs that did not end well")
    given = parser.parse_args()
    started = time.perf_counter()
    chosen = list(cases(given.count))
    if given.family:
        chosen = [(given.family, number) for number in range(given.count)]
    with tempfile.TemporaryDirectory(prefix="smalti-fuzz-base-") as folder:
        make_base(Path(folder))
        progress = Progress(len(chosen))

        def job(index: int) -> list[Result]:
            found = []
            for result in run_cases(chosen[index :: given.jobs], Path(folder), given.seed):
                found.append(result)
                progress.add(result)
            return found

        with ThreadPoolExecutor(given.jobs) as pool:
            results = [result for part in pool.map(job, range(given.jobs)) for result in part]
    bad = [result for result in results if result.kind not in RIGHT]
    if given.save:
        given.save.write_text("".join(json.dumps(asdict(result)) + "\n" for result in bad))
    slow = sorted(results, key=lambda result: result.seconds)[: -_SLOWEST - 1 : -1]
    named = ", ".join(f"{result.family} {result.number} {result.seconds:.1f} s" for result in slow)
    seconds = time.perf_counter() - started
    print(f"\n{table(results)}\n\nseed {given.seed}, {seconds:.0f} s; the slowest: {named}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
