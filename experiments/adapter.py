"""Teach the bundled model a noun by an adapter: twenty pictures, ten minutes on two cores. docs/adapters.md shows it.

python experiments/adapter.py [--quantize int8|int4] [--kind lora] [--steps 400] [--output runs/adapter] [--sheets DIR]

The noun is new_noun.py's rabbit. Half of the training folder are the twenty pictures, twenty copies of each. The other
half are 400 scenes on which the model keeps its own predictions. A reader, the suite's detector with the rabbit's
outline, looks for a rabbit of the right colour in images of twenty prompts that training does not have. The suite
`scenes` tells what was forgotten. The numbers go to OUTPUT/report.json; a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from new_noun import LATTICE, NOUN, add_noun, lessons, questions
from PIL import Image

import smalti
from smalti.common.files import write_text_atomic
from smalti.common.images import save_image
from smalti.evaluation.suites.scenes.detector import detect
from smalti.evaluation.suites.scenes.prompts import scene_prompts
from smalti.evaluation.suites.scenes.score import is_correct, score_images
from smalti.pipeline import Pipeline
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import train_denoiser
from smalti.training.reading import load_config
from smalti.worlds.scenes.scene import render
from smalti.worlds.scenes.world import Scenes

BASE = Path(smalti.__file__).parent / "models" / "scenes"
KNOWN, COPIES = 400, 20  # scenes that the model knows; files of each picture of the noun
_SIDE = 128  # side of an image on a sheet, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quantize", choices=["int8", "int4", "fp8"], help="storage of the frozen layers")
    parser.add_argument("--kind", default="lora", choices=["lora", "rslora", "dora"], help="kind of adapter")
    parser.add_argument("--rank", type=int, default=16, help="rank of the updates")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of 16 images")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout of the updates' input")
    parser.add_argument(
        "--keep", type=float, default=1.0, help="weight of keeping the base's predictions of known scenes"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/adapter"), help="folder of the run")
    parser.add_argument(
        "--sheets",
        type=Path,
        help="folder for adapter-before.png and adapter-after.png, two rows of ten images",
    )
    parser.add_argument("--per-tag", type=int, default=50, help="prompts of each of the suite's six tasks")
    parser.add_argument("--before", type=Path, help="report of another run whose base is the same")
    options = parser.parse_args()
    add_noun()
    write_images(options.output / "images")
    config = load_config(DenoiserRunConfig, write_config(options))
    path = options.output / "report.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if not report:
        clock, cpu = time.monotonic(), cpu_seconds()
        train_denoiser(config)
        report |= {"kind": options.kind, "quantize": options.quantize, "steps": options.steps}
        report |= {
            "seconds": round(time.monotonic() - clock),
            "cpu_seconds": round(cpu_seconds() - cpu),
        }
        save_report(report, path)
    if options.before:
        report["before"] = json.loads(options.before.read_text())["before"]
    for name in ("before", "after"):
        if name not in report:
            adapter = options.output / "run" / "model" if name == "after" else None
            pipe = smalti.load(BASE, dtype="bfloat16", quantize=options.quantize, adapter=adapter)
            report[name] = measure(
                pipe, options.per_tag, options.sheets and options.sheets / f"adapter-{name}.png"
            )
            save_report(report, path)
    print(json.dumps(report, indent=2))


def save_report(report: dict[str, Any], path: Path) -> None:
    """Write what is known, so that a run that is stopped goes on from there."""
    write_text_atomic(path, json.dumps(report, indent=2) + "\n")


def cpu_seconds() -> float:
    """Return the processor time of this process and of those that it started, in seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def write_images(folder: Path) -> None:
    """Write the pictures and their captions, unless they are there."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True)
    rows = []
    for number, scene in enumerate(lessons()):
        picture = Image.fromarray(render(scene, 256))
        for copy in range(COPIES):
            rows.append((f"{NOUN}-{number:02}-{copy}.png", scene.caption, picture))
    known = Scenes(seed=77, lattice=LATTICE, extra_shapes=0.35, halves=0.2, blobs=0.3, named=0.25)
    for number in range(KNOWN):
        scene = known.scene(number)
        rows.append((f"scene-{number:03}.png", scene.caption, Image.fromarray(render(scene, 256))))
    for name, _, picture in rows:
        save_image(picture, folder / name)
    lines = [json.dumps({"file_name": name, "text": caption}) for name, caption, _ in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def write_config(options: argparse.Namespace) -> Path:
    """Write the configuration that `smalti train` would read."""
    output: Path = options.output
    values = {
        "output": str(output / "run"),
        "tokenizer": str(BASE),
        "start_from": str(BASE),
        "model": {},
        "adapter": {
            "kind": options.kind,
            "rank": options.rank,
            "dropout": options.dropout,
            "quantize": options.quantize,
            "new_words": [NOUN] if options.keep else [],
            "keep_weight": options.keep or 1.0,
        },
        "data": {"kind": "folder", "path": str(output / "images"), "size": 256},
        "cache": {"path": str(output / "cache"), "samples": 20 * COPIES + KNOWN},
        "objective": {
            "masking": {"ordered:order=halton": 0.7, "rare_first": 0.1, "box": 0.1, "uniform": 0.1},
            "flip_ratio": 0.1,
        },
        "optimizer": {"learning_rate": options.rate, "warmup_steps": 20, "ema_decay": 0.98},
        "validation": {"images": 0},
        "loop": {
            "steps": options.steps,
            "batch_size": 16,
            "log_every": 20,
            "preview_every": 10**6,
            "checkpoint_every": 100,
            "keep_checkpoints": 10,
        },
        "preview_prompts": [f"a red {NOUN}", f"a blue {NOUN} above a green star"],
    }
    path = output / "config.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def measure(pipe: Pipeline, per_tag: int, sheet: Path | None) -> dict[str, Any]:
    """Return how many of the twenty new prompts show the noun, and the scores of the suite."""
    asked = questions()
    images = pipe([line["prompt"] for line in asked], seed=list(range(len(asked)))).images
    found = [detect(np.asarray(image)) for image in images]
    colors = [next(e["color"] for e in line["include"] if e["class"] == NOUN) for line in asked]
    seen = [
        any(one.shape == NOUN and one.color == color for one in objects)
        for objects, color in zip(found, colors, strict=True)
    ]
    correct = [is_correct(line, objects) for line, objects in zip(asked, found, strict=True)]
    if sheet is not None:
        write_sheet(images, sheet)
    prompts = scene_prompts(per_tag)
    drawn = []
    for first in range(0, len(prompts), 20):
        texts = [prompt["prompt"] for prompt in prompts[first : first + 20]]
        drawn += pipe(texts, seed=list(range(first, first + len(texts)))).images
        print(f"scenes: {len(drawn)} of {len(prompts)}", file=sys.stderr)
    return {
        "seen": sum(seen),
        "correct": sum(correct),
        "of": len(asked),
        "scenes": score_images(prompts, drawn),
    }


def write_sheet(images: list[Image.Image], path: Path) -> None:
    """Write images in two rows of ten."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = Image.new("RGB", (10 * _SIDE, 2 * _SIDE))
    for number, image in enumerate(images):
        sheet.paste(image.resize((_SIDE, _SIDE)), (number % 10 * _SIDE, number // 10 * _SIDE))
    save_image(sheet, path)


if __name__ == "__main__":
    main()
