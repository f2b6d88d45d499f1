"""Measure the seconds of an edit against those of a drawing with the same number of steps.

python benchmarks/editing.py [--model FOLDER] [--device cpu] [--steps 4 8 16 32] [--repeats 3] [--json]

Drawing and editing alternate in one process, round after round; a time is the median of its rounds. The edit selects
its tokens by likelihood, which is the slowest selection. Its seconds include encoding, selecting, filling, decoding and
blending. Passes are those of the denoiser; a step with guidance counts two.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from measure import device_name

import smalti
from smalti.errors import SmaltiError
from smalti.evaluation.suites.scenes.edit_pairs import edit_pairs

STEPS = (4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="numbers of steps")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that are timed, after one that is not")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    report = measure(options)
    if options.json:
        print(json.dumps(report))
        return
    print(f"{report['model']}, {report['device']}, {report['threads']} threads\n")
    print("steps  draw s  edit s  ratio  passes to draw  to edit")
    for row in report["rows"]:
        print(
            f"{row['steps']:>5}  {row['draw']:>6.3f}  {row['edit']:>6.3f}  {row['ratio']:>5.2f}"
            f"  {row['draw_passes']:>14}  {row['edit_passes']:>7}"
        )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the table's rows."""
    pipe = smalti.load(options.model, device=options.device)
    pair = next(edit_pairs(1))
    before = pair.images(pipe.settings.height)[0]
    guided = 2 if pipe.settings.guidance_scale else 1
    rows = []
    for steps in options.steps:
        # Bound now, because the loop goes on.
        def draw(steps: int = steps) -> Any:
            return pipe(pair.prompt, seed=0, num_inference_steps=steps)

        def edit(steps: int = steps) -> Any:
            return pipe.edit(
                before, pair.prompt, source_prompt=pair.source_prompt, seed=0, num_inference_steps=steps
            )

        draw()
        result = edit()
        rounds = [(seconds(draw), seconds(edit)) for _ in range(options.repeats)]
        drawing, editing = (statistics.median(column) for column in zip(*rounds, strict=True))
        rows.append(
            {
                "steps": steps,
                "draw": drawing,
                "edit": editing,
                "ratio": editing / drawing,
                "draw_passes": guided * steps,
                "edit_passes": guided * steps + result.passes,
            }
        )
    return {
        "model": pipe.components.name,
        "device": device_name(options.device),
        "threads": torch.get_num_threads(),
        "rows": rows,
    }


def seconds(run: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"benchmark: {error}")
