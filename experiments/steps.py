"""Measure quality against steps: the scenes score of a model under every sampling rule, from one pass to many.

python experiments/steps.py [--model FOLDER] [--rules none threshold …] [--steps 1 2 4 …] [--seeds 0 1 2] [--images K]

A cell is a rule, a number of steps and a seed. Its images have the same prompts and the same seeds under every rule:
those of `smalti evaluate scenes --images K --seed SEED --steps N` with the rule's settings.

A rule is the model's own settings without revision, changed by words. A word is a revision rule, such as threshold:0.15
or token_to_mask, or SETTING=VALUE, such as order=history:window=8. Quote several words: "none order=random
budget=linear". The word threshold alone is the model's own threshold, where it has one.

The script first predicts its running time from a few images. It writes every finished cell to results.json in --output
at once and skips cells that are there, so the same command continues after a stop. It writes the tables to results.md
and the plots to quality-steps.png and quality-seconds.png.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml

import smalti
from smalti.common.checks import check_whole
from smalti.common.files import read_json, write_json_atomic, write_text_atomic
from smalti.errors import SmaltiError
from smalti.evaluation.suites.scenes.prompts import scene_prompts
from smalti.evaluation.suites.scenes.score import score_images
from smalti.generation.settings import GenerationSettings
from smalti.pipeline import Pipeline
from smalti.worlds.tasks import TAGS

RULES = (
    "none",
    "threshold",
    "token_to_mask",
    "running_confidence",
    "order=confidence",
    "running_confidence order=confidence",
    "order=history",
    "budget=adaptive",
)
STEPS = (1, 2, 4, 8, 16, 32, 64)
Cell = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument(
        "--rules", nargs="+", default=list(RULES), metavar="RULE", help=f"by default {', '.join(RULES)}"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="numbers of steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of prompts and images")
    parser.add_argument("--images", type=int, default=240, help="images in a cell, over GenEval's six tasks")
    parser.add_argument("--images-per-prompt", type=int, default=1, help="images of each prompt")
    parser.add_argument("--batch-size", type=int, default=16, help="images drawn at a time")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--dtype", help="dtype of the denoiser; by default float32 on a CPU")
    parser.add_argument("--threads", type=int, help="PyTorch threads; by default one a core")
    parser.add_argument("--output", type=Path, default=Path("runs/steps"), help="folder of the results")
    options = parser.parse_args()
    for name in ("images_per_prompt", "batch_size"):
        check_whole(f"--{name.replace('_', '-')}", getattr(options, name))
    unit = len(TAGS) * options.images_per_prompt
    if options.images < unit or options.images % unit:
        raise SmaltiError(f"--images must be a multiple of {unit}, not {options.images}")
    if options.threads:
        torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    pipe = smalti.load(options.model, device=options.device, dtype=options.dtype)
    wanted = cells(pipe, options)
    kept = options.output / "results.json"
    found: list[Cell] = read_json(kept)["cells"] if kept.exists() else []
    missing = [cell for cell in wanted if lookup(found, cell) is None]
    print(f"{len(wanted)} cells, {len(wanted) - len(missing)} of them there already", flush=True)
    if missing:
        predict(pipe, missing, options)
    for number, cell in enumerate(missing, start=1):
        found.append({**cell, **measure(pipe, cell, options)})
        write_json_atomic(kept, {"cells": found})
        done = found[-1]
        what = f"{done['mean']:.3f}, {done['passes']:g} passes, {done['seconds_an_image']:.3f} s an image"
        place = f"[{number}/{len(missing)}] {cell['rule']}, {cell['steps']} steps, seed {cell['seed']}"
        print(f"{place}: {what}", flush=True)
    results = [{**cell, **lookup(found, cell)} for cell in wanted]
    table = summary(results, options)
    write_text_atomic(options.output / "results.md", table)
    plot(results, "passes", options.output / "quality-steps.png", "passes of the denoiser")
    plot(results, "seconds_an_image", options.output / "quality-seconds.png", "seconds an image")
    print("\n" + table)


def cells(pipe: Pipeline, options: argparse.Namespace) -> list[Cell]:
    """Return all that a result depends on, cell by cell; seed by seed, so that a stop leaves whole comparisons."""
    head = pipe.denoiser.head.detach().float().cpu().numpy().tobytes()
    common = {
        "model": pipe.components.name,
        "weights": hashlib.sha256(head).hexdigest()[:12],
        "device": options.device,
        "dtype": str(pipe.denoiser.head.dtype).removeprefix("torch."),
        "images": options.images,
        "images_per_prompt": options.images_per_prompt,
    }
    rules = {rule: settings_of(pipe.settings, rule) for rule in dict.fromkeys(options.rules)}
    found = []
    for seed in options.seeds:
        for steps in options.steps:
            for rule, settings in rules.items():
                changed = settings.replaced(num_inference_steps=steps).to_dict()
                found.append({"rule": rule, "steps": steps, "seed": seed, "settings": changed, **common})
    return found


def settings_of(own: GenerationSettings, rule: str) -> GenerationSettings:
    """Return the settings that a rule stands for, on top of the model's own without revision."""
    words = rule.split()
    # A rule's own parameters have an equals sign too, but only after a colon.
    revisions = [word for word in words if "=" not in word.partition(":")[0]]
    if len(revisions) > 1:
        raise SmaltiError(f"--rules must have one revision rule in {rule!r}, not {' and '.join(revisions)}")
    revision = revisions[0] if revisions else "none"
    if revision == "threshold" and own.revision.startswith("threshold:"):
        revision = own.revision
    changes = read_changes("--rules", [word for word in words if word not in revisions])
    return own.replaced(**{"revision": revision, **changes})


def read_changes(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return settings from SETTING=VALUE; errors name the option that had them."""
    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SmaltiError(f"{option} must have SETTING=VALUE, not {pair!r}")
        changes[key] = yaml.safe_load(value)
    return changes


def lookup(found: list[Cell], cell: Cell) -> Cell | None:
    """Return the measured cell that equals `cell` in everything but the rule's text, or None."""
    same = [key for key in cell if key != "rule"]
    return next((one for one in found if all(one.get(key) == cell[key] for key in same)), None)


def predict(pipe: Pipeline, missing: list[Cell], options: argparse.Namespace) -> None:
    """Print how long the cells will take, by the time of two batches that differ in their number of steps."""
    settings = settings_of(pipe.settings, "threshold")
    prompts = scene_prompts(-(-options.batch_size // len(TAGS)))[: options.batch_size]
    taken = {}
    for steps in (1, 2, 8):  # the first one warms up
        started = time.perf_counter()
        few = settings.replaced(num_inference_steps=steps)
        images = pipe.start([prompt["prompt"] for prompt in prompts], few, seed=0).output().images
        score_images(prompts, ([image] for image in images))
        taken[steps] = (time.perf_counter() - started) / len(prompts)
    a_pass = max(taken[8] - taken[2], 0) / 6
    rest = max(taken[2] - 2 * a_pass, 0)
    seconds = sum(options.images * (rest + cell["steps"] * a_pass) for cell in missing)
    print(
        f"{len(missing)} cells of {options.images} images to draw: about {seconds / 60:.0f} minutes at "
        f"{a_pass:.4f} s a pass and {rest:.3f} s for the rest of an image, measured just now",
        flush=True,
    )


def measure(pipe: Pipeline, cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """Draw and score a cell's images."""
    settings = GenerationSettings().replaced(**cell["settings"])
    prompts = scene_prompts(options.images // (len(TAGS) * options.images_per_prompt), cell["seed"])
    texts = [prompt["prompt"] for prompt in prompts for _ in range(options.images_per_prompt)]
    seconds, passes, edited, remasked = 0.0, 0, 0, 0

    def images() -> Iterator[Any]:
        nonlocal seconds, passes, edited, remasked
        for first in range(0, len(texts), options.batch_size):
            part = texts[first : first + options.batch_size]
            seeds = [cell["seed"] + first + index for index in range(len(part))]
            result = pipe.start(part, settings, seed=seeds).output()
            seconds += result.seconds["total"]
            passes += sum(result.passes)
            edited += sum(result.tokens_edited)
            remasked += sum(result.tokens_remasked)
            yield from result.images

    drawn = images()
    groups = (list(islice(drawn, options.images_per_prompt)) for _ in prompts)
    scores = score_images(prompts, groups)
    count = len(texts)
    return {
        **{name: scores[name] for name in (*TAGS, "mean", "held_out", "seen")},
        "passes": round(passes / count, 3),
        "seconds_an_image": round(seconds / count, 4),
        "edited_an_image": round(edited / count, 2),
        "remasked_an_image": round(remasked / count, 2),
    }


def summary(results: list[Cell], options: argparse.Namespace) -> str:
    """Return Markdown: the scores, what each rule adds to the first one, passes and seconds."""
    rules, steps = (list(dict.fromkeys(cell[key] for cell in results)) for key in ("rule", "steps"))
    seeds = list(dict.fromkeys(cell["seed"] for cell in results))
    table = {(cell["rule"], cell["steps"], cell["seed"]): cell for cell in results}

    def values(rule: str, number: int, key: str) -> list[float]:
        return [table[rule, number, seed][key] for seed in seeds]

    def rows(title: str, entry: Any, rules: list[str] = rules) -> list[str]:
        lines = [f"| {title} | {' | '.join(map(str, steps))} |", "| --- |" + " --- |" * len(steps)]
        lines += [f"| {rule} | {' | '.join(entry(rule, number) for number in steps)} |" for rule in rules]
        return [*lines, ""]

    def score(rule: str, number: int) -> str:
        found = values(rule, number, "mean")
        return f"{statistics.fmean(found):.3f} ± {(max(found) - min(found)) / 2:.3f}"

    def gain(rule: str, number: int) -> str:
        pairs = zip(values(rule, number, "mean"), values(rules[0], number, "mean"), strict=True)
        found = [one - first for one, first in pairs]
        return f"{statistics.fmean(found):+.3f} ({min(found):+.3f} to {max(found):+.3f})"

    def cost(rule: str, number: int) -> str:
        passes, seconds = (
            statistics.fmean(values(rule, number, key)) for key in ("passes", "seconds_an_image")
        )
        return f"{passes:.3g}; {seconds:.3f} s"

    one = results[0]
    per_prompt = f", {one['images_per_prompt']} a prompt" if one["images_per_prompt"] > 1 else ""
    lines = [
        f"Scenes score of {one['model']} (weights {one['weights']}): mean of six tasks, {one['images']} images a "
        f"cell{per_prompt}, seeds {', '.join(map(str, seeds))}; mean ± half the range over seeds.",
        "",
        *rows("rule \\ steps", score),
    ]
    if len(rules) > 1:
        lines += [f"Score above {rules[0]} with the same prompts and seeds: mean (lowest to highest).", ""]
        lines += rows("rule \\ steps", gain, rules[1:])
    lines += [
        f"Passes and seconds of an image on {one['device']} ({one['dtype']}) in batches of "
        f"{options.batch_size}.",
        "",
        *rows("rule \\ steps", cost),
    ]
    return "\n".join(lines)


def plot(results: list[Cell], key: str, path: Path, label: str) -> None:
    """Plot the score against its cost: for each rule a line through means over seeds, with their range."""
    try:
        import matplotlib
    except ImportError:
        print(f"{path} needs matplotlib: pip install 'smalti[plots]'", file=sys.stderr)
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7.5, 4.8), layout="tight")
    for rule in dict.fromkeys(cell["rule"] for cell in results):
        points = []
        for steps in dict.fromkeys(cell["steps"] for cell in results):
            same = [cell for cell in results if (cell["rule"], cell["steps"]) == (rule, steps)]
            scores = [cell["mean"] for cell in same]
            points.append(
                (
                    statistics.fmean(cell[key] for cell in same),
                    statistics.fmean(scores),
                    min(scores),
                    max(scores),
                )
            )
        x, mean, low, high = zip(*sorted(points), strict=True)
        (line,) = axis.plot(x, mean, "o-", markersize=4, label=rule)
        axis.fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel(label)
    axis.set_ylabel("scenes score")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"experiment: {error}")
