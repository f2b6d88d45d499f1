"""Compare masked diffusion, autoregression and continuous diffusion on one backbone.

python experiments/compare_paradigms.py [--output runs/paradigms] [--images 38400] [--seeds 0 1 2]
    [--stages train search quality speed report] [--set KEY=VALUE …]

Each paradigm is trained with the same backbone from the same starting weights, the bundled image tokenizer, and the
same images in the same order, for each seed:

- masked diffusion, as `smalti train` has it; drawn with and without token editing
- autoregression in raster order of 2×2 cells, token by token inside a cell, with a key/value cache
- flow matching on the latents of the same tokens, drawn with Euler's and Heun's steps

The first seed's trainings find the best settings of each, on prompts that are not measured. Quality is the score of
the suite scenes. Passes are sequences through the backbone, so that guidance counts twice. Seconds are processor time
of one thread, on a GPU real time; those of drawing and of pixels are apart. A finished part is not repeated, and a
stopped one continues. Results go to results.json, results.md and results.png in --output.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from paradigms.drawing import VARIANTS
from paradigms.measuring import (
    SEARCHED_STEPS,
    Row,
    measure_quality,
    measure_speed,
    points,
    read_rows,
    search,
    summarize,
    write_rows,
)
from paradigms.reporting import plot, settings_table, table
from paradigms.training import PARADIGMS, WEIGHTS, Budget, PlainTask, load_trained, train

from smalti.common.files import write_text_atomic
from smalti.errors import SmaltiError

STAGES = ("train", "search", "quality", "speed", "report")
DATA = {"kind": "scenes", "size": 256, "seed": 11, "lattice": 8}
MODEL = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "intermediate_size": 512,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tokenizer", default="smalti/models/scenes", help="folder of the image tokenizer, or of its model"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/paradigms"), help="folder of trainings and results"
    )
    parser.add_argument("--images", type=int, default=38_400, help="images that a training sees")
    parser.add_argument("--distinct", type=int, default=32_768, help="different images of the token shards")
    parser.add_argument("--batch-size", type=int, default=16, help="images of a step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument(
        "--stages", nargs="+", default=list(STAGES), choices=STAGES, help="parts to run, in this order"
    )
    parser.add_argument("--searched", type=int, default=15, help="prompts of a task for the search")
    parser.add_argument("--measured", type=int, default=20, help="prompts of a task for the scores of a seed")
    parser.add_argument("--device", default="cpu", help="PyTorch device of trainings and measurements")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="batches that are timed")
    parser.add_argument("--repeats", type=int, default=3, help="times that each point is timed")
    parser.add_argument(
        "--set", nargs="+", default=[], dest="overrides", metavar="KEY=VALUE", help="changes of all trainings"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(
        options.output,
        options.tokenizer,
        DATA,
        options.distinct,
        options.images,
        options.batch_size,
        MODEL,
        overrides=(f"loop.device={options.device}", *options.overrides),
    )
    for stage in STAGES:
        if stage in options.stages:
            RUN[stage](budget, options)


def run_trainings(budget: Budget, options: argparse.Namespace) -> None:
    """Train seed by seed, so that a stop leaves whole comparisons."""
    budget.make_shards()
    for seed in options.seeds:
        for paradigm in PARADIGMS:
            train(budget, paradigm, seed)
            if not (budget.folder(paradigm, seed) / "model" / WEIGHTS).exists():
                raise SmaltiError("the trainings were stopped; the same command continues them")


def load(budget: Budget, seed: int) -> dict[str, PlainTask]:
    """Return the trained paradigms of a seed."""
    return {paradigm: load_trained(budget, paradigm, seed) for paradigm in PARADIGMS}


def best_settings(budget: Budget, options: argparse.Namespace, tasks: dict[str, PlainTask]) -> list[Row]:
    """Return all points with the settings that the search finds or found, by the first seed's trainings."""
    best = {}
    for name, variant in VARIANTS.items():
        for steps in SEARCHED_STEPS if any(variant.steps) else (0,):
            path = budget.output / "search.json"
            best[name, steps] = search(tasks[variant.paradigm], name, steps, options.searched, path)
            print(f"{name}, {steps} steps: {best[name, steps]}", flush=True)
    return points(best)


def run_search(budget: Budget, options: argparse.Namespace) -> None:
    """Search the best settings, and write the points to measure."""
    found = best_settings(budget, options, load(budget, options.seeds[0]))
    write_rows(budget.output / "points.json", found)


def run_quality(budget: Budget, options: argparse.Namespace) -> None:
    """Score all points of all seeds."""
    wanted = read_rows(budget.output / "points.json")
    for seed in options.seeds:
        tasks = load(budget, seed)
        for paradigm, task in tasks.items():
            own = [point for point in wanted if VARIANTS[point["variant"]].paradigm == paradigm]
            measure_quality(task, own, options.measured, seed, budget.output / "quality.json")


def run_speed(budget: Budget, options: argparse.Namespace) -> None:
    """Time all points; a trained model is as fast as any other, so one seed is enough."""
    wanted = read_rows(budget.output / "points.json")
    tasks = load(budget, options.seeds[0])
    measure_speed(tasks, wanted, options.batches, options.repeats, budget.output / "speed.json")


def run_report(budget: Budget, options: argparse.Namespace) -> None:
    """Write the results, the tables and the plot of what is measured."""
    names = ("points.json", "quality.json", "speed.json")
    rows = summarize(*(read_rows(budget.output / name) for name in names))
    write_rows(budget.output / "results.json", rows)
    text = table(rows) + "\n" + settings_table(rows)
    write_text_atomic(budget.output / "results.md", text)
    plot(rows, budget.output / "results.png")
    print(text)


RUN = {
    "train": run_trainings,
    "search": run_search,
    "quality": run_quality,
    "speed": run_speed,
    "report": run_report,
}

if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"experiment: {error}")
