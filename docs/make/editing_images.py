"""Draw the images of docs/editing.md with the bundled model: editing.png, editing-ways.png, editing-row.png.

python docs/make/editing_images.py [--model FOLDER] [--out DIR] [--seed 0]

They show the first edit of each kind of `smalti evaluate edits` with this seed. None is picked by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import smalti
from smalti.evaluation.suites.scenes.edit_pairs import KINDS, edit_pairs
from smalti.pipeline import Pipeline

IMAGES = Path(__file__).parent.parent / "images"
_SIDE, _GAP, _LINE = 160, 6, 14
_ROW = (
    "a photo of a green circle and a blue square",
    "a photo of a green circle and a yellow square",
    "a photo of a green star and a yellow square",
    "a photo of a green star",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the images")
    parser.add_argument("--seed", type=int, default=0, help="which edits, and the seed of the first one")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pipe = smalti.load(options.model)
    for name, columns in (
        ("editing", kinds(pipe, options.seed)),
        ("editing-ways", regions(pipe, options.seed)),
        ("editing-row", in_a_row(pipe, options.seed)),
    ):
        sheet(columns).quantize(256, dither=Image.Dither.NONE).save(
            options.out / f"{name}.png", optimize=True
        )


def kinds(pipe: Pipeline, seed: int) -> list[list[Any]]:
    """Return a column for each kind of edit: before, selected tokens, after."""
    columns = []
    for index, pair in enumerate(edit_pairs(len(KINDS), seed=seed)):
        before = pair.images(pipe.settings.height)[0]
        result = pipe.edit(before, pair.prompt, source_prompt=pair.source_prompt, seed=seed + index)
        texts = [pair.source_prompt, f"{share(result)} selected", pair.prompt]
        columns.append([Image.fromarray(before), result.map(), result.image, *texts])
    return columns


def regions(pipe: Pipeline, seed: int) -> list[list[Any]]:
    """Return a column for each edit with a given region: inpainting, removal, outpainting, variation."""
    pair = next(edit_pairs(1, seed=seed))
    before = pair.images(pipe.settings.height)[0]
    side = len(before)
    touched = set(pair.before.objects) - set(pair.after.objects)
    columns = []
    for title, prompt, how in (
        ("inpaint", pair.prompt, {"mask": box_of(touched, side)}),
        ("inpaint: remove", f"a photo of a {_name(pair.untouched[0])}", {"mask": box_of(touched, side)}),
        ("outpaint", pair.source_prompt, {"grow": (side // 4, 0, side // 4, 0)}),
        ("vary, strength 0.5", pair.source_prompt, {"strength": 0.5}),
    ):
        result = pipe.edit(before, prompt, seed=seed, **how)
        columns.append([Image.fromarray(before), result.map(), result.image, title, share(result), prompt])
    return columns


def in_a_row(pipe: Pipeline, seed: int) -> list[list[Any]]:
    """Return a column for each edit of a row that starts with a drawn image; each edits the result before."""
    drawn = pipe("a photo of a red circle and a blue square", seed=seed)
    columns, last = [], drawn
    for index, prompt in enumerate(_ROW):
        before = last.images[0]
        last = pipe.edit(last, prompt, seed=seed + index)
        columns.append(
            [before, last.map(), last.image, last.source_prompt, f"{share(last)} selected", prompt]
        )
    return columns


def share(result: Any) -> str:
    """Return how many tokens were selected, as text."""
    return f"{int(result.region.sum())} of {result.region.numel()} tokens"


def box_of(objects: Any, side: int) -> np.ndarray:
    """Return a mask, (side, side) bool, of the boxes of some objects."""
    mask = np.zeros((side, side), dtype=bool)
    for item in objects:
        top, left = (round((center - item.size / 2) * side) for center in (item.y, item.x))
        length = round(item.size * side)
        mask[top : top + length, left : left + length] = True
    return mask


def sheet(columns: list[list[Any]]) -> Image.Image:
    """Return columns of three images as one, each with its text below: before, selected tokens, after."""
    width = len(columns) * (_SIDE + _GAP) - _GAP
    height = 3 * (_SIDE + 2 * _LINE + _GAP)
    whole = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(whole)
    for number, column in enumerate(columns):
        for row in range(3):
            left, top = number * (_SIDE + _GAP), row * (_SIDE + 2 * _LINE + _GAP)
            image = column[row].convert("RGB")
            image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            whole.paste(image, (left + (_SIDE - image.width) // 2, top + (_SIDE - image.height) // 2))
            text = column[3 + row].removeprefix("a photo of ")
            for line, part in enumerate(wrap(text, draw)):
                draw.text((left, top + _SIDE + line * _LINE), part, fill=(60, 60, 60))
    return whole


def wrap(text: str, draw: ImageDraw.ImageDraw) -> list[str]:
    """Return at most two lines that fit under an image."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer) <= _SIDE:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:2]


def _name(item: Any) -> str:
    return f"{item.color} {item.shape}"


if __name__ == "__main__":
    main()
