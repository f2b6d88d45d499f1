"""Score scenes with a shape in a colour that training never shows it in, pair by pair.

python experiments/held_out.py [--model FOLDER] [--prompts 12] [--preset balanced] [--set SETTING=VALUE …] [--sheet PNG]

The prompts of `smalti evaluate scenes` contain the ten pairs by chance, half of them alone in the image. Here every
pair has the same number of prompts, each with a second object that training shows: "a photo of a white heart and a
brown ring". This is the hardest set of scenes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from steps import read_changes

import smalti
from smalti.common.files import atomic_path
from smalti.errors import SmaltiError
from smalti.evaluation.geneval import Prompt, is_correct
from smalti.evaluation.subject import Subject
from smalti.evaluation.suites.scenes.detector import detect
from smalti.worlds.scenes.captions import geneval_prompt
from smalti.worlds.scenes.palette import COLORS
from smalti.worlds.scenes.scene import HELD_OUT
from smalti.worlds.scenes.shapes import SHAPES

_SIDE = 128  # side of an image on the sheet, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--dtype", help="dtype of the denoiser; by default float32 on a CPU")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--prompts", type=int, default=12, help="number of prompts for each of the ten pairs")
    parser.add_argument("--preset", default="balanced", help="fast, balanced or quality")
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING=VALUE", help="such as order=halton")
    parser.add_argument(
        "--seed", type=int, default=7000, help="seed of the first image; prompts are always the same"
    )
    parser.add_argument("--sheet", type=Path, help="write all images into this file, a row for each pair")
    options = parser.parse_args()
    changes = read_changes("--set", options.set)
    pipe = smalti.load(options.model, device=options.device, dtype=options.dtype)
    settings = pipe.preset(options.preset).replaced(**changes)
    prompts = list(pair_prompts(options.prompts))
    texts = [prompt["prompt"] for prompt in prompts]
    images = list(Subject.of(pipe, settings).draw(texts, seed=options.seed, batch_size=20))
    correct = [
        is_correct(prompt, detect(np.asarray(image))) for prompt, image in zip(prompts, images, strict=True)
    ]
    print("| pair | correct |\n| --- | --- |")
    for row, (shape, color) in enumerate(sorted(HELD_OUT)):
        of_pair = correct[row * options.prompts : (row + 1) * options.prompts]
        print(f"| {color} {shape} | {np.mean(of_pair):.2f} |")
    print(f"| all {len(correct)} | {np.mean(correct):.3f} |")
    if options.sheet:
        sheet = Image.new("RGB", (options.prompts * _SIDE, len(HELD_OUT) * _SIDE))
        for number, image in enumerate(images):
            row, column = divmod(number, options.prompts)
            sheet.paste(image.resize((_SIDE, _SIDE)), (column * _SIDE, row * _SIDE))
        with atomic_path(options.sheet) as path:
            sheet.save(path)


def pair_prompts(count: int) -> Iterator[Prompt]:
    """Yield `count` prompts for each of the `HELD_OUT` pairs, in their sorted order, always the same."""
    random = Random(5)
    for shape, color in sorted(HELD_OUT):
        for _ in range(count):
            beside = random.choice([other for other in SHAPES if other != shape])
            colors = [other for other in COLORS if other != color and (beside, other) not in HELD_OUT]
            pairs = [(shape, color), (beside, random.choice(colors))]
            if random.random() < 0.5:
                pairs.reverse()
            prompt = {
                "tag": "color_attr",
                "include": [{"class": s, "count": 1, "color": c} for s, c in pairs],
            }
            yield {**prompt, "prompt": geneval_prompt(prompt)}


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"experiment: {error}")
