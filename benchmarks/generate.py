"""Measure seconds and memory of an image against the number of steps, with and without guidance and token editing.

python benchmarks/generate.py [--model FOLDER] [--device cpu] [--repeats 3] [--threads N] [--json]

All settings alternate in one process, round after round, and a time is the median of its rounds, so that times compare
on a busy machine too. Memory is the peak of a separate process for each setting.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from itertools import product
from typing import Any

from smalti.errors import SmaltiError

STEPS = (4, 8, 16, 32, 64)
PROMPT = "a red circle left of a blue square"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="numbers of steps")
    parser.add_argument("--size", type=int, help="side in pixels; by default the model's own")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that are timed, after one that is not")
    parser.add_argument("--threads", type=int, help="PyTorch threads; by default one a core")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--memory-of", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory(options)))
        return
    report = measure(options)
    if options.json:
        print(json.dumps(report))
        return
    print(f"{report['model']}, {report['size']}×{report['size']} pixels, {report['threads']} threads\n")
    print("steps  guidance  editing  denoise s  decode s  total s      MB")
    for row in report["rows"]:
        guidance, editing = ("yes" if row[name] else "no" for name in ("guidance", "editing"))
        times = f"{row['denoise']:>9.3f}  {row['decode']:>8.3f}  {row['total']:>7.3f}"
        print(f"{row['steps']:>5}  {guidance:>8}  {editing:>7}  {times}  {row['peak_memory_mb']:>6.0f}")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return time and memory of every combination of steps, guidance and token editing."""
    import torch

    pipe = _load(options)
    size = options.size or pipe.settings.height
    cases = [
        {"steps": steps, "guidance": guidance, "editing": editing}
        for steps, guidance, editing in product(options.steps, (False, True), (False, True))
    ]
    seconds: list[list[dict[str, float]]] = [[] for _ in cases]
    for round_number in range(options.repeats + 1):
        for case, taken in zip(cases, seconds, strict=True):
            result = _draw(pipe, case, size)
            if round_number:
                taken.append(result.seconds)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = []
    for case, taken in zip(cases, seconds, strict=True):
        median = {
            name: statistics.median(one[name] for one in taken) for name in ("denoise", "decode", "total")
        }
        rows.append({**case, **{name: round(value, 4) for name, value in median.items()}, **_memory(case)})
    return {
        "model": pipe.components.name,
        "device": options.device,
        "size": size,
        "threads": torch.get_num_threads(),
        "rows": rows,
    }


def memory(options: argparse.Namespace) -> dict[str, float]:
    """Return the peak memory of this process, in MB, after loading the model and drawing one image."""
    from smalti.cli.output import peak_memory_mb

    pipe = _load(options)
    _draw(pipe, options.memory_of, options.size or pipe.settings.height)
    return {"peak_memory_mb": peak_memory_mb(options.device)}


def _memory(case: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, *sys.argv, "--memory-of", json.dumps(case)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _load(options: argparse.Namespace) -> Any:
    import torch

    import smalti

    if options.threads:
        torch.set_num_threads(options.threads)
    return smalti.load(options.model, device=options.device)


def _draw(pipe: Any, case: dict[str, Any], size: int) -> Any:
    """Draw one image with the model's own settings, changed by the case."""
    own = pipe.settings
    editing = own.revision if own.revision != "none" else "threshold:0.6"
    settings = own.replaced(
        height=size,
        width=size,
        num_inference_steps=case["steps"],
        guidance_scale=(own.guidance_scale or 3.0) if case["guidance"] else 0.0,
        revision=editing if case["editing"] else "none",
    )
    return pipe(PROMPT, seed=0, settings=settings)


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"benchmark: {error}")
