"""Draw the images of docs/reading.md with the bundled model: reading-classify.png, reading-ground.png,
reading-explain.png.

python docs/make/reading_images.py [--model FOLDER] [--out DIR] [--seed 0]

The scene is drawn with this seed; none is picked by hand. The labels beside it have the probabilities that the model
gives them, and the maps are those of each kind for both of its phrases.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import smalti
from smalti.reading.grounding import MAPS
from smalti.worlds.scenes.shapes import SHAPES

IMAGES = Path(__file__).parent.parent / "images"
PHRASES = ["a red circle", "a blue star"]
WORDS = ["red", "circle", "blue", "star"]
PROMPT = "a red circle left of a blue star"
_SIDE, _GAP, _LINE = 128, 6, 14


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scene")
    options = parser.parse_args()
    pipe = smalti.load(options.model)
    scene = pipe(PROMPT, seed=options.seed)
    circle = pipe("a red circle", seed=options.seed)
    found = pipe.classify(circle, [f"a red {shape}" for shape in SHAPES])
    save(bars(circle.images[0], found.ranked()), options.out / "reading-classify.png")
    columns = [(PROMPT, scene.images[0])]
    for kind in MAPS:
        result = pipe.ground(scene, PHRASES, by=kind)
        heat = result.phrases[0].map
        shade = Image.fromarray((255 * heat).round().astype(np.uint8))
        columns += [
            (f"{kind}: map of '{PHRASES[0]}'", shade.convert("RGB")),
            (f"{kind}: regions", result.overlay()),
        ]
    save(sheet(columns), options.out / "reading-ground.png")
    words = pipe.explain(scene, words=WORDS, pairs=[("red", "circle"), ("circle", "star")])
    words.figure().save(options.out / "reading-explain.png", optimize=True)  # pale tints need all colours


def bars(image: Image.Image, ranked: list[tuple[str, float]]) -> Image.Image:
    """Return an image with a bar a label at its right."""
    canvas = Image.new("RGB", (3 * _SIDE, _LINE * len(ranked) + 4), "white")
    canvas.paste(image.resize((_SIDE, _SIDE)), (0, 2))
    draw = ImageDraw.Draw(canvas)
    for row, (label, probability) in enumerate(ranked):
        top, left = row * _LINE + 2, _SIDE + 2 * _GAP
        draw.rectangle(
            (left, top + 1, left + 2 + round(probability * 60), top + _LINE - 3), fill=(230, 0, 150)
        )
        draw.text((left + 70, top), f"{label} {100 * probability:.1f} %", fill="black")
    return canvas


def sheet(columns: list[tuple[str, Image.Image]]) -> Image.Image:
    """Return images beside each other, each under its title, four a row."""
    rows = -(-len(columns) // 4)
    width, height = 4 * (2 * _SIDE + _GAP) - _GAP, rows * (2 * _SIDE + _LINE + _GAP)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (title, image) in enumerate(columns):
        row, column = divmod(number, 4)
        left, top = column * (2 * _SIDE + _GAP), row * (2 * _SIDE + _LINE + _GAP)
        draw.text((left, top), title, fill="black")
        canvas.paste(image.resize((2 * _SIDE, 2 * _SIDE)), (left, top + _LINE))
    return canvas


def save(image: Image.Image, path: Path) -> None:
    """Write a small PNG."""
    image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
