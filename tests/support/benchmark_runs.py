"""A small published benchmark, and runs of it by several processes or by one that is killed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fid_runs import run_fid

import smalti
from smalti.evaluation import benchmark
from smalti.evaluation.benchmark import Benchmark
from smalti.evaluation.bootstrap import intervals
from smalti.evaluation.request import Request
from smalti.evaluation.run import evaluate
from smalti.evaluation.subject import Subject

PROMPTS = 5


@dataclass(frozen=True)
class Redness(Benchmark):
    """Measure how red images are."""

    def score(self, prompt: Any, sample: Any) -> list[float]:
        return [round(float(np.asarray(image)[..., 0].mean()), 3) for image in sample]

    def summarize(self, rows: Sequence[list[float]]) -> dict[str, Any]:
        return {"mean": float(np.mean(rows)), "rows": list(rows), "intervals": intervals({"red": rows})}

    def describe(self) -> dict[str, Any]:
        return {"name": "red"}


def write_prompts(path: Path) -> Path:
    colors = ["red", "blue", "green", "white", "black"]
    path.write_text("".join(json.dumps({"prompt": f"a {color} circle"}) + "\n" for color in colors))
    return path


def run(model: str, prompts: str, save: str | None, batch_size: int = 4) -> dict[str, Any]:
    """Return the scores and the metadata of a run with two steps and two images a prompt."""
    pipe = smalti.load(model)
    request = Request(
        images_per_prompt=2,
        seed=7,
        batch_size=batch_size,
        prompts=Path(prompts),
        save=None if save is None else Path(save),
    )
    found = evaluate(Redness(), request, Subject.of(pipe, pipe.settings.replaced(num_inference_steps=2)))
    return {**found.scores, **found.metadata}


def run_both(model: str, prompts: str, reference: str, save: str) -> list[dict[str, Any]]:
    """Return the reports of `run` and of a run of FID, whose processes also share the real images."""
    return [run(model, prompts, f"{save}/red"), run_fid(f"{save}/fid", reference, model)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


if __name__ == "__main__":  # model, prompts, folder, and the number of the image at which the process dies
    last, write = int(sys.argv[4]), benchmark.save_image

    def dying(image: Any, path: Path) -> None:
        global last
        if last == 0:
            Path(path.parent / f".{path.stem}.smalti-abcdefgh.png").write_bytes(b"half an image")
            os._exit(137)
        last -= 1
        write(image, path)

    benchmark.save_image = dying
    run(*sys.argv[1:4])
