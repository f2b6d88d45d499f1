"""Compare rules of decoding with a model's own settings, at equal passes and at equal processor time.

python experiments/decoding.py [--model FOLDER] [--suite scenes] [--rules "order=stable" …] [--steps 4 8 16]
    [--seeds 0] [--images 96] [--output runs/decoding]

A rule is the model's own settings, changed by words SETTING=VALUE. Quote several: "revision=path_planning
order=confidence". The word "default" changes nothing; its row is always there, and the others are compared with it. A
cell is a rule, a number of steps and a seed. All cells of a seed have the same prompts and the same image seeds, so
differences are taken image by image.

- gain at equal passes: mean difference to the default at as many passes, with its standard error over images. A budget
  that ends early is compared with the default between the two measured numbers of passes that enclose its own.
- gain at equal seconds: the same with processor time in place of passes, so that a rule pays for what it computes.

Seconds are processor time of this process (sampling and decoding; scoring is not counted), so other programs on the
machine count little. Every finished cell is written to results.json in --output at once; the same command continues
after a stop, and more rules, steps or seeds may be added. The tables are printed and written to results.md.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from steps import read_changes

import smalti
from smalti.common.files import read_json, write_json_atomic, write_text_atomic
from smalti.errors import SmaltiError
from smalti.evaluation.suite import Suite, find_suite
from smalti.generation.settings import GenerationSettings
from smalti.pipeline import Pipeline

DEFAULT = "default"
RULES = (
    DEFAULT,
    "order=confidence",
    "order=history",
    "order=stable",
    "order=stable:pool=2,spread=true",
    "order=coherent",
    "order=coherent:window=2,reject=0.25,spread=true",
    "budget=adaptive",
    "budget=stable:shift=20,lead=false",
    "budget=coherent:shift=20,lead=false",
    "budget=entropy_bound:shift=20",
    "budget=entropy_bound:gamma=0.25,shift=20,lead=false",
    "revision=remdm",
    "revision=running_confidence",
    "revision=path_planning",
    "revision=path_planning order=confidence",
    "revision=token_to_mask",
    "revision=capped_token_to_mask",
    "guidance_scale=2",
    "guidance_schedule=rising",
    "guidance_schedule=rising guidance_scale=2",
)
Cell = dict[str, Any]


class Point(NamedTuple):
    """What a rule reached with a number of steps, over all seeds.

    Attributes:
        score: mean over prompts.
        hits: score of every prompt that could be judged, by (seed, prompt).
        seed_scores: mean of each seed.
        passes: passes of the denoiser an image.
        seconds: processor time an image.
    """

    score: float
    hits: dict[tuple[int, int], float]
    seed_scores: list[float]
    passes: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--suite", default="scenes", help="suite whose summary has a mean")
    parser.add_argument("--rules", nargs="+", default=list(RULES), metavar="RULE", help="rules to measure")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16], help="numbers of steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of prompts and images")
    parser.add_argument("--images", type=int, default=96, help="images in a cell, one a prompt")
    parser.add_argument("--batch-size", type=int, default=16, help="images drawn at a time")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads")
    parser.add_argument("--output", type=Path, default=Path("runs/decoding"), help="folder of the results")
    parser.add_argument(
        "--tables", action="store_true", help="measure nothing; write the tables of what is there"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipe = smalti.load(options.model, device=options.device)
    suite = find_suite(options.suite)
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / "results.json"
    found: list[Cell] = read_json(kept)["cells"] if kept.exists() else []
    wanted = cells(pipe, options)
    missing = [] if options.tables else [cell for cell in wanted if lookup(found, cell) is None]
    print(f"{len(wanted)} cells, {len(missing)} to measure", flush=True)
    for number, cell in enumerate(missing, start=1):
        found.append({**cell, **measure(pipe, suite, cell, options.batch_size)})
        write_json_atomic(kept, {"cells": found})
        done, place = found[-1], f"[{number}/{len(missing)}] seed {cell['seed']}, {cell['steps']} steps"
        print(f"{place}, {cell['rule']}: {done['mean']:.3f}, {done['seconds']:.3f} s an image", flush=True)
    table = tables([{**cell, **one} for cell in wanted if (one := lookup(found, cell)) is not None])
    write_text_atomic(options.output / "results.md", table)
    print("\n" + table)


def cells(pipe: Pipeline, options: argparse.Namespace) -> list[Cell]:
    """Return all that a result depends on, cell by cell; seed by seed, so that a stop leaves whole comparisons."""
    head = pipe.denoiser.head.detach().float().cpu().numpy().tobytes()
    common = {
        "model": pipe.components.name,
        "weights": hashlib.sha256(head).hexdigest()[:12],
        "suite": options.suite,
        "device": options.device,
        "images": options.images,
    }
    rules = dict.fromkeys([DEFAULT, *options.rules])
    settings = {rule: settings_of(pipe.settings, rule) for rule in rules}
    return [
        {
            "rule": rule,
            "steps": steps,
            "seed": seed,
            "settings": own.replaced(num_inference_steps=steps).to_dict(),
            **common,
        }
        for seed in options.seeds
        for steps in options.steps
        for rule, own in settings.items()
    ]


def settings_of(own: GenerationSettings, rule: str) -> GenerationSettings:
    """Return the settings that a rule stands for, on top of the model's own."""
    return own.replaced(**read_changes("--rules", [word for word in rule.split() if word != DEFAULT]))


def lookup(found: Sequence[Cell], cell: Cell) -> Cell | None:
    """Return the measured cell that equals `cell` in everything but the rule's text, or None."""
    same = [key for key in cell if key != "rule"]
    return next((one for one in found if all(one.get(key) == cell[key] for key in same)), None)


def measure(pipe: Pipeline, suite: Suite, cell: Cell, batch_size: int) -> dict[str, Any]:
    """Draw and score a cell's images."""
    settings = GenerationSettings().replaced(**cell["settings"])
    prompts = suite.prompts(cell["images"], cell["seed"])
    rows, seconds, passes, remasked = [], 0.0, 0, 0
    for first in range(0, len(prompts), batch_size):
        part = prompts[first : first + batch_size]
        seeds = [1000 * cell["seed"] + first + index for index in range(len(part))]
        started = time.process_time()
        result = pipe.start([prompt["prompt"] for prompt in part], settings, seed=seeds).output()
        seconds += time.process_time() - started
        passes += sum(result.passes)
        remasked += sum(result.tokens_remasked)
        rows += [suite.score(prompt, [image]) for prompt, image in zip(part, result.images, strict=True)]
    count = len(prompts)
    return {
        "mean": suite.summarize(rows)["mean"],
        "hits": [one_score(suite, row) for row in rows],
        "passes": round(passes / count, 3),
        "seconds": round(seconds / count, 4),
        "remasked": round(remasked / count, 2),
    }


def one_score(suite: Suite, row: Any) -> float | None:
    """Return the score of one prompt, or None where it cannot be judged."""
    try:
        return suite.summarize([row])["mean"]
    except SmaltiError:
        return None


def points(results: Sequence[Cell]) -> dict[str, dict[int, Point]]:
    """Return what every rule reached, by rule and steps."""
    found: dict[str, dict[int, Point]] = {}
    for rule, steps in dict.fromkeys((cell["rule"], cell["steps"]) for cell in results):
        same = [cell for cell in results if (cell["rule"], cell["steps"]) == (rule, steps)]
        hits = {
            (cell["seed"], number): hit
            for cell in same
            for number, hit in enumerate(cell["hits"])
            if hit is not None
        }
        scores = [cell["mean"] for cell in same]
        means = [statistics.fmean(cell[key] for cell in same) for key in ("passes", "seconds")]
        found.setdefault(rule, {})[steps] = Point(statistics.fmean(hits.values()), hits, scores, *means)
    return found


def gain(point: Point, default: Sequence[Point], key: str) -> tuple[float, float] | None:
    """Return the mean difference to the default at an equal cost and its standard error over images.

    Args:
        default: what the default reached, by rising cost.
        key: "passes" or "seconds"; the default's scores are interpolated along its logarithm.

    Returns:
        None where the default was not measured on both sides of the point.
    """
    cost = getattr(point, key)
    below = [one for one in default if getattr(one, key) <= cost * 1.0001]
    above = [one for one in default if getattr(one, key) >= cost * 0.9999]
    if not below or not above:
        return None
    low, high = below[-1], above[0]
    width = math.log(getattr(high, key) / getattr(low, key)) if high is not low else 0.0
    weight = math.log(cost / getattr(low, key)) / width if width > 1e-6 else 0.0
    shared = [image for image in point.hits if image in low.hits and image in high.hits]
    found = [
        point.hits[image] - (1 - weight) * low.hits[image] - weight * high.hits[image] for image in shared
    ]
    if len(found) < 2:
        return None
    return statistics.fmean(found), statistics.stdev(found) / math.sqrt(len(found))


def tables(results: Sequence[Cell]) -> str:
    """Return Markdown: scores, gains at equal passes and at equal seconds, passes and seconds."""
    found = points(results)
    if DEFAULT not in found:
        raise SmaltiError("--tables needs measured cells, and there are none", argument="tables")
    own = sorted(found[DEFAULT].values(), key=lambda point: point.passes)
    steps = sorted({number for rule in found.values() for number in rule})

    def rows(title: str, entry: Any) -> list[str]:
        lines = [f"| {title} | {' | '.join(f'{number} steps' for number in steps)} |"]
        lines.append("| --- |" + " --- |" * len(steps))
        for rule, reached in found.items():
            cells = [entry(reached[number]) if number in reached else "–" for number in steps]
            lines.append(f"| `{rule}` | {' | '.join(cells)} |")
        return [*lines, ""]

    def score(point: Point) -> str:
        spread = (max(point.seed_scores) - min(point.seed_scores)) / 2
        return f"{point.score:.3f}" + (f" ± {spread:.3f}" if len(point.seed_scores) > 1 else "")

    def difference(key: str) -> Any:
        def entry(point: Point) -> str:
            value = gain(point, own, key)
            return "–" if value is None else f"{value[0]:+.3f} ± {value[1]:.3f}"

        return entry

    one, seeds = results[0], sorted({cell["seed"] for cell in results})
    return "\n".join(
        [
            f"Suite {one['suite']}, model {one['model']} (weights {one['weights']}), {one['images']} images a cell, "
            f"seeds {', '.join(map(str, seeds))}. A cell of few steps may have more seeds than one of many.",
            "",
            "Score: mean ± half the range over seeds.",
            "",
            *rows("rule", score),
            "Gain over the default at equal passes ± standard error over images.",
            "",
            *rows("rule", difference("passes")),
            "Gain over the default at equal processor time ± standard error over images.",
            "",
            *rows("rule", difference("seconds")),
            "Passes; seconds of processor time an image.",
            "",
            *rows("rule", lambda point: f"{point.passes:.3g}; {point.seconds:.3f} s"),
        ]
    )


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"experiment: {error}")
