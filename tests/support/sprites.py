"""A small sprite archive: shapes in named colours and several styles, some of one drawing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from smalti.worlds.objects.archive import Sprite, SpriteArchive, write_archive

SHAPES = ("ball", "box", "cone", "kite", "ring", "cross", "bread", "skis")
COLORS = {
    "red": (220, 32, 40),
    "yellow": (252, 220, 24),
    "green": (24, 152, 64),
    "blue": (28, 88, 220),
    "black": (24, 24, 28),
    "white": (254, 254, 254),
}
NAMES = {"bread": "loaf of bread", "skis": "pair of skis"}
KINDS = {"ball": ("toy",), "kite": ("toy",), "bread": ("food",)}


def shape_pixels(noun: str, color: tuple[int, int, int], turn: int = 0) -> np.ndarray:
    """Return a shape as (128, 128, 4) uint8."""
    y, x = (np.mgrid[:128, :128] - 63.5) / 58
    radius, widest, length = np.hypot(x, y), np.maximum(abs(x), abs(y)), abs(x) + abs(y)
    masks = {
        "ball": radius < 1,
        "box": widest < 0.9,
        "cone": (abs(y) < 0.9) & (abs(x) < (y + 0.9) / 2),
        "kite": length < 1,
        "ring": (radius < 1) & (radius > 0.55),
        "cross": (widest < 0.95) & (np.minimum(abs(x), abs(y)) < 0.35),
        "bread": (abs(x) < 0.95) & (abs(y) < 0.5),
        "skis": (abs(y) < 0.95) & (abs(abs(x) - 0.5) < 0.2),
    }
    pixels = np.zeros((128, 128, 4), np.uint8)
    pixels[np.rot90(masks.get(noun, radius < 0.8), turn)] = (*color, 255)
    return pixels


def shape_sprites() -> Iterator[tuple[Sprite, np.ndarray]]:
    """Yield 138 sprites: drawings in six colours, three styles of one drawing, two views of a model, odd ones."""
    for noun in SHAPES:
        name, kinds = NAMES.get(noun, noun), KINDS.get(noun, ())
        for color, rgb in COLORS.items():
            entry = f"{noun}-{color}"
            for style in ("noto", "twemoji"):
                sprite = Sprite(
                    f"{style}/{entry}", name, noun, style, kinds, color, package=style, entry=entry
                )
                yield sprite, shape_pixels(noun, rgb)
        for style in ("fluent-3d", "fluent-color", "fluent-flat"):
            yield Sprite(f"{style}/{noun}", name, noun, style, kinds), shape_pixels(noun, (150, 60, 90))
        for view in (0, 90):
            key, entry = f"3d-model/{noun}@{view}", f"{noun}/{noun}.obj"
            sprite = Sprite(key, name, noun, "3d-model", kinds, view=view, package="models", entry=entry)
            yield sprite, shape_pixels(noun, (20, 120, 130), view // 90)
    yield Sprite("noto/thing", "odd thing", None, "noto"), shape_pixels("thing", (90, 90, 200))
    yield (
        Sprite("noto/rare", "rare ring", "rare ring", "noto", ("toy",), "red"),
        shape_pixels("ring", (200, 0, 0)),
    )


def write_sprites(folder: Path) -> SpriteArchive:
    """Write the archive into a folder, and return it."""
    write_archive(folder / "sprites.zip", shape_sprites())
    return SpriteArchive(folder)
