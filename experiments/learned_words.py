"""Measure words that are learned from a few images: how many drawings show the shape that a word was trained on.

python experiments/learned_words.py [SHAPE …] [--model FOLDER] [--images 4] [--drawings 10] [--output runs/words]

For each shape the word <thing> is trained on --images scenes of it in different colours, captioned "a red <thing>".
Drawings are of all ten colours in turn, most of them in no training image. The scorer of `smalti evaluate scenes` says
whether the shape is right, and whether the colour is, too. A word starts from the known word that fits best, but not
from the shape's own noun, singular or plural. With --compare that known word and the shape's noun are drawn, too. Rows
go to rows.jsonl in --output, and a later run goes on there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import smalti
from smalti.common.files import write_json_atomic
from smalti.errors import SmaltiError
from smalti.evaluation.geneval import is_correct
from smalti.evaluation.suites.scenes.detector import detect
from smalti.pipeline import Pipeline
from smalti.storage.words import with_words
from smalti.training.words import WordTraining, nearest_word
from smalti.worlds.scenes.captions import plural
from smalti.worlds.scenes.palette import COLORS
from smalti.worlds.scenes.scene import colors_of, compose, render
from smalti.worlds.scenes.shapes import SHAPES

Row = dict[str, Any]
WORD, LATTICE = "<thing>", 8


def examples(shape: str, count: int, seed: int, size: int) -> tuple[list[np.ndarray], list[str]]:
    """Return scenes of one shape in different colours, (size, size, 3) uint8, and their captions."""
    random = Random(f"smalti learned words {seed} {shape}")
    images, captions = [], []
    for color in random.sample(colors_of(shape, "train"), count):
        include = [{"class": shape, "count": 1, "color": color}]
        metadata = {"tag": "colors", "include": include, "prompt": f"a {color} {WORD}"}
        images.append(render(compose(metadata, random, split="train", lattice=LATTICE), size))
        captions.append(f"a {color} {WORD}")
    return images, captions


def drawn(pipe: Pipeline, shape: str, word: str, options: argparse.Namespace) -> dict[str, float]:
    """Return the shares of drawings with the right shape, and with the right colour as well."""
    shapes, both = [], []
    for number in range(options.drawings):
        color = list(COLORS)[number % len(COLORS)]
        made = pipe(
            f"a {color} {word}", seed=options.seed + number, num_inference_steps=options.drawing_steps
        )
        seen = detect(np.asarray(made.images[0]))
        for found, change in ((shapes, {}), (both, {"color": color})):
            include = [{"class": shape, "count": 1, **change}]
            tag = "colors" if change else "single_object"
            found.append(is_correct({"tag": tag, "include": include, "prompt": ""}, seen))
    return {"shape": float(np.mean(shapes)), "shape_and_color": float(np.mean(both))}


def measure(model: str | None, shape: str, options: argparse.Namespace) -> Row:
    """Train a word for a shape, and return the scores of its drawings and of those by known words."""
    pipe = smalti.load(model)
    images, captions = examples(shape, options.images, options.seed, pipe.settings.height)
    started, losses = time.process_time(), []
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    others = pipe.components.words - {shape, plural(shape)}
    start = nearest_word(pipe.components, pipe.components.encode(pixels), captions, WORD, others)
    training = WordTraining(
        options.steps,
        learning_rate=options.learning_rate,
        vectors=options.vectors,
        initial=start,
        seed=options.seed,
    )
    word = pipe.train_word(images, captions, WORD, training, report=lambda step, loss: losses.append(loss))
    seconds = time.process_time() - started
    taught = Pipeline(with_words(pipe.components, [word]))
    row = {"shape": shape, "seconds": round(seconds, 1), "start": start, "captions": captions}
    row |= {"first": float(np.mean(losses[:10])), "last": float(np.mean(losses[-10:]))}
    row[WORD] = drawn(taught, shape, WORD, options)
    for known in (shape, start) if options.compare else ():
        row[known] = drawn(taught, shape, known, options)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), help="shapes; by default all ten")
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--images", type=int, default=4, help="training images of a word")
    parser.add_argument("--drawings", type=int, default=10, help="drawings of a word")
    parser.add_argument("--drawing-steps", type=int, default=16, help="steps of a drawing")
    parser.add_argument("--steps", type=int, default=WordTraining.steps, help="steps of a training")
    parser.add_argument("--learning-rate", type=float, default=WordTraining.learning_rate, help="step size")
    parser.add_argument("--vectors", type=int, default=1, help="vectors of a word")
    parser.add_argument("--compare", action="store_true", help="whether known words are drawn, too")
    parser.add_argument("--seed", type=int, default=0, help="seed of examples, masks and drawings")
    parser.add_argument("--output", type=Path, default=Path("runs/words"), help="folder of the results")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    place = options.output / "rows.jsonl"
    rows = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    with open(place, "a", encoding="utf-8") as file:
        for shape in options.shapes[len(rows) :]:
            rows.append(measure(options.model, shape, options))
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
            print(json.dumps(rows[-1]), flush=True)
    mean = {name: float(np.mean([row[WORD][name] for row in rows])) for name in rows[0][WORD]}
    write_json_atomic(options.output / "results.json", {"words": len(rows), **mean})
    print(json.dumps(mean))


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as fault:
        sys.exit(f"experiment: {fault}")
