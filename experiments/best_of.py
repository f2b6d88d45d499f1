"""Measure what `smalti generate --best-of` brings, on shape-colour pairs that training never shows.

python experiments/best_of.py [--model FOLDER] [--prompts 4] [--images 4] [--steps 8] [--output runs/best-of]

Every prompt has --images candidates of --steps steps. The scorer of `smalti evaluate scenes` says which are correct.
The table compares the mean candidate, the best of 2, of 4 and so on by likelihood, and what a choice by the scorer
itself would give. A single image with as many passes as the best of 2 stands beside them. Rows go to rows.jsonl in
--output, and a later run goes on where an earlier one stopped; results.json has the shares.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from held_out import pair_prompts

import smalti
from smalti.common.files import write_json_atomic
from smalti.errors import SmaltiError
from smalti.evaluation.geneval import is_correct
from smalti.evaluation.suites.scenes.detector import detect
from smalti.pipeline import Pipeline
from smalti.reading.ranking import MASKS, prompt_gain

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--prompts", type=int, default=4, help="number of prompts for each of the ten pairs")
    parser.add_argument("--images", type=int, default=4, help="candidates of a prompt")
    parser.add_argument("--steps", type=int, default=8, help="steps of a candidate")
    parser.add_argument("--seed", type=int, default=9000, help="seed of each prompt's first candidate")
    parser.add_argument("--output", type=Path, default=Path("runs/best-of"), help="folder of the results")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    pipe = smalti.load(options.model)
    place = options.output / "rows.jsonl"
    rows = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    prompts = list(pair_prompts(options.prompts))
    # Prompts of all pairs in turn, so that a run that is stopped has seen every pair.
    order = sorted(range(len(prompts)), key=lambda index: index % options.prompts)
    with open(place, "a", encoding="utf-8") as file:
        for index in order[len(rows) :]:
            rows.append(measure(pipe, prompts[index], options))
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
    results = summarize(rows)
    write_json_atomic(options.output / "results.json", results)
    print(json.dumps(results))


def measure(pipe: Pipeline, prompt: Any, options: argparse.Namespace) -> Row:
    """Return which candidates of a prompt are correct, their scores, and whether one image of equal cost is."""
    text = prompt["prompt"]
    drawn = pipe(
        text, seed=options.seed, num_images_per_prompt=options.images, num_inference_steps=options.steps
    )
    # A guided step is two passes. Two candidates with their scores cost as much as one image of more steps.
    single = pipe(text, seed=options.seed, num_inference_steps=2 * options.steps + 2 * MASKS)
    return {
        "prompt": text,
        "correct": [is_correct(prompt, detect(np.asarray(image))) for image in drawn.images],
        "gains": [prompt_gain(pipe.components, grid, text) for grid in drawn.tokens],
        "single": is_correct(prompt, detect(np.asarray(single.images[0]))),
    }


def summarize(rows: list[Row]) -> dict[str, float]:
    """Return the shares of correct images."""
    correct = np.array([row["correct"] for row in rows], dtype=float)
    gains = np.array([row["gains"] for row in rows])
    everyone = np.arange(len(rows))
    shares = {"prompts": len(rows), "mean": float(correct.mean())}
    count = 2
    while count <= correct.shape[1]:
        # Every group of candidates in a row counts, so that few prompts give more numbers.
        groups = range(0, correct.shape[1] - count + 1, count)
        best = [correct[everyone, first + gains[:, first : first + count].argmax(1)] for first in groups]
        oracle = [correct[:, first : first + count].max(1) for first in groups]
        shares[f"best_of_{count}"] = float(np.mean(best))
        shares[f"best_of_{count}_by_scorer"] = float(np.mean(oracle))
        count *= 2
    shares["one_of_equal_passes_to_best_of_2"] = float(np.mean([row["single"] for row in rows]))
    return {name: round(value, 4) for name, value in shares.items()}


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as fault:
        sys.exit(f"experiment: {fault}")
