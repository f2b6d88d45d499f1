"""Measure what a model reads from scenes that training never shows.

python experiments/reading.py TASK [TASK …] [--model FOLDER] [--scenes 100] [--lattice 8] [--output runs/reading]

Tasks of `smalti classify` are shape, color, beside, above and count; the labels are captions that differ in one word.
Chance is 0.1 for shape and color, 0.5 for beside and above, 0.25 for count. The task ground measures `smalti ground` by
the intersection over union with the true pixels of each object.

Each task adds a line a scene to TASK.jsonl in --output, and goes on where an earlier run stopped. results.json holds
the scores. Temperatures are fitted on the scenes with even numbers and measured on the others.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reading_scenes import TASKS, marked, question

import smalti
from smalti.common.files import read_json, write_json_atomic
from smalti.errors import SmaltiError
from smalti.pipeline import Pipeline
from smalti.reading.calibration import calibration_error, fit_temperature
from smalti.reading.classification import Classification
from smalti.reading.grounding import MAPS
from smalti.worlds.scenes.scene import render

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+", choices=[*TASKS, "ground"], help="what to measure")
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--scenes", type=int, default=100, help="number of scenes of each task")
    parser.add_argument("--lattice", type=int, default=8, help="positions a side; 0 means any position")
    parser.add_argument("--masks", type=int, help="masks a text; None is the command's own")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.add_argument("--output", type=Path, default=Path("runs/reading"), help="folder of the results")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    pipe = smalti.load(options.model, device=options.device)
    results = options.output / "results.json"
    scores = read_json(results) if results.exists() else {}
    for task in options.tasks:
        rows = collect(task, pipe, options)
        scores[task] = summarize_grounding(rows) if task == "ground" else summarize(rows)
        scores[task] |= {"lattice": options.lattice or None, "seed": options.seed}
        write_json_atomic(results, scores)
        print(json.dumps({task: scores[task]}), flush=True)


def collect(task: str, pipe: Pipeline, options: argparse.Namespace) -> list[Row]:
    """Return the rows of a task's scenes, those of earlier runs first; each is written when it is known."""
    place = options.output / f"{task}.jsonl"
    rows = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    one: Callable[..., Row] = ground_one if task == "ground" else classify_one
    with open(place, "a", encoding="utf-8") as file:
        for index in range(len(rows), options.scenes):
            rows.append(one(pipe, task, index, options))
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
    return rows[: options.scenes]


def classify_one(pipe: Pipeline, task: str, index: int, options: argparse.Namespace) -> Row:
    """Return what the model says of one scene."""
    asked = question(task, index, seed=options.seed, lattice=options.lattice or None)
    picture = render(asked.scene, pipe.settings.height)
    started = time.process_time()
    found = pipe.classify(picture, asked.labels, **({"masks": options.masks} if options.masks else {}))
    return {
        "truth": asked.truth,
        "values": found.log_likelihoods,
        "passes": found.passes,
        "seconds": round(time.process_time() - started, 4),
        "held_out": asked.scene.held_out,
        "label": asked.labels[asked.truth],
    }


def summarize(rows: list[Row]) -> dict[str, float]:
    """Return the scores of a task of `smalti classify`."""
    results = [reread(row, 1.0) for row in rows]
    truths = [row["truth"] for row in rows]
    right = [found.label == found.labels[truth] for found, truth in zip(results, truths, strict=True)]
    held_out = [good for good, row in zip(right, rows, strict=True) if row["held_out"]]
    temperature = fit_temperature(results[::2], truths[::2])
    calibrated = [reread(row, temperature) for row in rows[1::2]]
    return {
        "scenes": len(rows),
        "right": round(float(np.mean(right)), 4),
        "right_held_out": round(float(np.mean(held_out)), 4) if held_out else 0.0,
        "passes": round(float(np.mean([row["passes"] for row in rows])), 1),
        "seconds": round(float(np.median([row["seconds"] for row in rows])), 3),
        "temperature": round(temperature, 3),
        "error": round(error(results[1::2], right[1::2]), 4),
        "error_calibrated": round(error(calibrated, right[1::2]), 4),
    }


def reread(row: Row, temperature: float) -> Classification:
    """Return the classification of a row at a temperature."""
    values = np.array(row["values"]) / temperature
    odds = np.exp(values - values.max())
    labels = tuple(map(str, range(len(values))))
    p = tuple((odds / odds.sum()).tolist())
    return Classification(labels, p, tuple(row["values"]), (), row["passes"], temperature)


def error(results: list[Classification], right: list[bool]) -> float:
    """Return the calibration error of the winning labels."""
    return calibration_error([max(found.probabilities) for found in results], right)


def ground_one(pipe: Pipeline, task: str, index: int, options: argparse.Namespace) -> Row:
    """Return the overlap of each phrase's region with its object, and whether its peak is inside, by kind of map."""
    asked = marked(index, seed=options.seed, lattice=options.lattice or None, size=pipe.settings.height)
    picture = render(asked.scene, pipe.settings.height)
    row: Row = {"prompt": asked.scene.caption, "held_out": asked.scene.held_out}
    for kind in MAPS:
        started = time.process_time()
        found = pipe.ground(picture, asked.phrases, prompt=asked.scene.caption, by=kind)
        pairs = list(zip(found.phrases, asked.masks, strict=True))
        row[kind] = [float((one.region & mask).sum() / (one.region | mask).sum()) for one, mask in pairs]
        row[f"{kind}_peak"] = [bool(mask.flat[one.map.argmax()]) for one, mask in pairs]
        row[f"{kind}_seconds"] = round(time.process_time() - started, 4)
    return row


def summarize_grounding(rows: list[Row]) -> dict[str, float]:
    """Return the mean overlap over all phrases, and the share of peaks inside, by kind of map."""
    scores: dict[str, float] = {"scenes": len(rows)}
    for kind in MAPS:
        scores[f"{kind}_miou"] = round(float(np.mean([row[kind] for row in rows])), 4)
        scores[f"{kind}_peak"] = round(float(np.mean([row[f"{kind}_peak"] for row in rows])), 4)
        scores[f"{kind}_seconds"] = round(float(np.median([row[f"{kind}_seconds"] for row in rows])), 3)
    return scores


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as fault:
        sys.exit(f"experiment: {fault}")
