"""Measure the paradigms: the best settings of each, then quality and passes, then seconds.

Everything that is measured is written at once and not measured again.
"""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from paradigms.drawing import VARIANTS, counting_passes, decode, draw, of_one_length
from paradigms.training import PlainTask
from smalti.common.files import read_json, write_json_atomic
from smalti.evaluation.geneval import Prompt
from smalti.evaluation.suites.scenes.prompts import scene_prompts
from smalti.evaluation.suites.scenes.score import score_images
from smalti.worlds.tasks import TAGS

Row = dict[str, Any]
SEARCHED_STEPS = (8, 32)  # the search's numbers of steps; other numbers take the settings of the nearer one
_SEARCH_SEED = 1000
_BATCH = 32
_MORE = 6  # prompts that are drawn for one that is kept
_SPARE = 5  # further prompts of a task, for small numbers


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; none where it does not exist yet."""
    return read_json(path)["rows"] if path.exists() else []


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows to a file."""
    write_json_atomic(path, {"rows": rows})


@lru_cache
def prompts_for(purpose: str, per_tag: int, seed: int) -> list[Prompt]:
    """Return prompts of each task for "search" or "measure". A prompt's text belongs to one of the two."""
    found = []
    every = scene_prompts((per_tag + _SPARE) * _MORE, seed)
    for tag in TAGS:
        own = [
            prompt
            for prompt in every
            if prompt["tag"] == tag
            and (zlib.crc32(prompt["prompt"].encode()) % 3 == 0) == (purpose == "search")
        ]
        found += own[:per_tag]
    return found


def quality(
    task: PlainTask, steps: int, settings: dict[str, Any], prompts: Sequence[Prompt], seed: int
) -> Row:
    """Return the scorer's shares of correct images by task, their mean, and the passes of an image."""
    texts = [prompt["prompt"] for prompt in prompts]
    images: list[Any] = [None] * len(texts)
    with counting_passes(task) as passes:
        for numbers, prompt in of_one_length(task, texts, _BATCH):
            seeds = [1_000_000 * seed + number for number in numbers]
            found = draw(task, prompt, steps, settings, seeds)
            for number, pixels in zip(numbers, decode(task, found, settings), strict=True):
                images[number] = pixels.permute(1, 2, 0).cpu().numpy()
    scores = score_images(prompts, images)
    return {
        **{name: round(scores[name], 4) for name in ("mean", *TAGS)},
        "passes": round(passes.count / len(texts), 2),
        "images": len(texts),
    }


def search(task: PlainTask, name: str, steps: int, per_tag: int, path: Path) -> dict[str, Any]:
    """Return a variant's best settings at a number of steps, found setting by setting; keep all trials in a file."""
    trials = read_rows(path)
    variant, prompts = VARIANTS[name], prompts_for("search", per_tag, _SEARCH_SEED)

    def score(settings: dict[str, Any]) -> float:
        key = {"variant": name, "steps": steps, "settings": settings, "per_tag": per_tag}
        known = next((one for one in trials if all(one[part] == key[part] for part in key)), None)
        if known is None:
            known = {**key, **quality(task, steps, settings, prompts, _SEARCH_SEED)}
            trials.append(known)
            write_rows(path, trials)
        return known["mean"]

    best = dict(variant.base)
    for setting, values in variant.choices.items():
        tried = {value: score({**best, setting: value}) for value in (best[setting], *values)}
        best[setting] = max(tried, key=tried.__getitem__)
    return best


def searched_steps(name: str, steps: int) -> int:
    """Return the number of steps whose search a point takes its settings from."""
    if not steps:
        return steps
    return SEARCHED_STEPS[0] if steps <= SEARCHED_STEPS[0] else SEARCHED_STEPS[1]


def points(best: dict[tuple[str, int], dict[str, Any]]) -> list[Row]:
    """Return all points of all curves with their settings."""
    return [
        {"variant": name, "steps": steps, "settings": best[name, searched_steps(name, steps)]}
        for name, variant in VARIANTS.items()
        for steps in variant.steps
    ]


def known(rows: list[Row], point: Row) -> Row | None:
    """Return the row that has all values of a point, or None."""
    return next((row for row in rows if all(row.get(key) == point[key] for key in point)), None)


def measure_quality(task: PlainTask, wanted: list[Row], per_tag: int, seed: int, path: Path) -> None:
    """Score the points of one training, on prompts and noise of its seed."""
    rows = read_rows(path)
    prompts = prompts_for("measure", per_tag, seed)
    for point in wanted:
        place = {**point, "seed": seed, "per_tag": per_tag}
        if known(rows, place) is None:
            found = quality(task, point["steps"], point["settings"], prompts, seed)
            rows.append({**place, **found})
            write_rows(path, rows)
            print(f"{point['variant']}, {point['steps']} steps, seed {seed}: {found['mean']:.3f}", flush=True)


def measure_speed(
    tasks: dict[str, PlainTask], wanted: list[Row], batches: Sequence[int], repeats: int, path: Path
) -> None:
    """Measure the seconds of an image: the points in turn, repeated, by size of batch; see `clock`."""
    rows = read_rows(path)
    for turn in range(repeats):
        for batch in batches:
            for point in wanted:
                place = {**point, "batch": batch, "turn": turn}
                if known(rows, place) is None:
                    task = tasks[VARIANTS[point["variant"]].paradigm]
                    rows.append({**place, **seconds(task, point, batch)})
                    write_rows(path, rows)


def seconds(task: PlainTask, point: Row, batch: int) -> Row:
    """Return the seconds of an image up to the image tokenizer, and those of its pixels, after a warm-up."""
    texts = [prompt["prompt"] for prompt in prompts_for("measure", 10, 0) if prompt["tag"] == "color_attr"]
    _, prompt = max(of_one_length(task, texts, len(texts)), key=lambda group: len(group[0]))
    prompt = prompt.select([number % len(prompt) for number in range(batch)])
    one = draw(task, prompt.select([0]), min(point["steps"], 2), point["settings"], [0])
    decode(task, one, point["settings"])
    started = clock(task.device)
    found = draw(task, prompt, point["steps"], point["settings"], range(batch))
    drawn = clock(task.device)
    decode(task, found, point["settings"])
    ended = clock(task.device)
    return {"drawing": (drawn - started) / batch, "decoding": (ended - drawn) / batch}


def clock(device: torch.device) -> float:
    """Return seconds: this process's processor time on a CPU, which other processes hardly disturb; else real time."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def summarize(wanted: list[Row], quality_rows: list[Row], speed_rows: list[Row]) -> list[Row]:
    """Return a row a measured point: mean and range of the score over seeds, passes, and `times_of`."""
    found = []
    for point in wanted:
        own = [row for row in quality_rows if all(row[key] == point[key] for key in point)]
        if not own:
            continue
        scores = [row["mean"] for row in own]
        found.append(
            {
                **point,
                "seeds": len(own),
                "score": round(statistics.fmean(scores), 4),
                "lowest": min(scores),
                "highest": max(scores),
                "tasks": {tag: round(statistics.fmean(row[tag] for row in own), 4) for tag in TAGS},
                "passes": own[0]["passes"],
                **times_of(speed_rows, point),
            }
        )
    return found


def times_of(rows: list[Row], point: Row) -> Row:
    """Return the median seconds of a point: drawing at batch 1, and at the batch at which it is fastest; decoding."""
    own = [row for row in rows if all(row[key] == point[key] for key in ("variant", "steps", "settings"))]
    by_batch = {
        batch: [row for row in own if row["batch"] == batch] for batch in {row["batch"] for row in own}
    }

    def median(batch: int, key: str) -> float:
        return round(statistics.median(row[key] for row in by_batch[batch]), 5)

    if not by_batch:
        return {}
    best = min(by_batch, key=lambda batch: median(batch, "drawing") + median(batch, "decoding"))
    drawing = [row["drawing"] for row in by_batch[best]]
    return {
        "seconds_1": median(1, "drawing") if 1 in by_batch else None,
        "decoding_1": median(1, "decoding") if 1 in by_batch else None,
        "best_batch": best,
        "seconds_best": median(best, "drawing"),
        "spread_best": round(max(drawing) - min(drawing), 5),
        "decoding_best": median(best, "decoding"),
    }
