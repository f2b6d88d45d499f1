"""A tiny sprite archive of coloured shapes with names, and a scorer without training, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from smalti.evaluation.suites.objects.naming import NounClassifiers
from smalti.evaluation.suites.objects.networks import Segmenter
from smalti.evaluation.suites.objects.scorer import Knowledge, Scorer
from smalti.worlds.objects.archive import SIDE, Sprite, write_archive
from smalti.worlds.objects.vocabulary import Noun, Vocabulary

COLORS = {"red": (220, 32, 40), "green": (24, 152, 64), "blue": (28, 88, 220), "yellow": (252, 220, 24)}
NOUNS = ("ball", "box", "kite", "tent", "coin", "door")


def shape(noun: str, rgb: tuple[int, int, int], drawing: int) -> np.ndarray:
    """Return (128, 128, 4) uint8: a disc, a square, a diamond, a triangle, a ring or a bar."""
    y, x = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) / (SIDE / 2 - 4 - 2 * drawing)
    radius = np.hypot(x, y)
    inside = {
        "ball": radius < 1,
        "box": np.maximum(abs(x), abs(y)) < 0.85,
        "kite": abs(x) * 1.4 + abs(y) < 1,
        "tent": (abs(x) < (y + 0.9) / 1.8) & (y < 0.9),
        "coin": (radius < 1) & (radius > 0.5),
        "door": (abs(x) < 0.4) & (abs(y) < 1),
    }[noun]
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[inside] = (*rgb, 255)
    return pixels


def write_shapes(folder: Path) -> Path:
    """Write an archive of six nouns in four colours, five drawings each; return its path."""
    path = folder / "sprites.zip"
    sprites = []
    for noun in NOUNS:
        for color, rgb in COLORS.items():
            for number in range(5):
                entry, style = f"{noun}-{color}", f"style{number}"
                sprite = Sprite(
                    f"{style}/{entry}", noun, noun, style, ("thing",), color, package=style, entry=entry
                )
                sprites.append((sprite, shape(noun, rgb, number)))
    write_archive(path, sprites)
    return path


def untrained_scorer(claimed: tuple[str, ...] = NOUNS) -> Scorer:
    """Return a scorer whose networks have random weights."""
    torch.manual_seed(0)
    nouns = {
        noun: Noun("pile of boxes" if noun == "box" else noun, tuple(COLORS), ("thing",)) for noun in claimed
    }
    held_out = frozenset({("ball", "pink")} if "ball" in claimed else ())
    classes = {**{noun: (noun,) for noun in claimed}, "thing": claimed}
    knowledge = Knowledge(NOUNS, 0.3, classes, Vocabulary(nouns, held_out), (*NOUNS, "unicorn"))
    return Scorer(Segmenter().eval(), NounClassifiers(len(NOUNS)).eval(), knowledge)
