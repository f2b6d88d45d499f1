"""One scene: its content, and its rendering."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from smalti.worlds.arguments import sides
from smalti.worlds.objects.grounds import Ground, render_ground
from smalti.worlds.objects.pictures import Pictures

INSET = 1 / 16
"""Share of a box's side that stays empty, half of it at each edge. Things in boxes that touch are thus apart."""

_CONTACT_OPACITY, _DROP_OPACITY = 96, 80  # of 255
_DROP_SHIFT = (0.035, 0.045)  # to the right and down, in sides of a thing


@dataclass(frozen=True)
class Thing:
    """One thing of a scene.

    Attributes:
        sprite: number of the sprite in its archive.
        noun: class of the thing in the scene's metadata.
        x, y: centre of its box, in fractions of the image's sides.
        size: side of its box, in fractions of the image's shorter side.
        turn: angle in degrees, counter-clockwise.
        mirrored: whether left and right are exchanged.
    """

    sprite: int
    noun: str
    x: float
    y: float
    size: float
    turn: float = 0.0
    mirrored: bool = False


@dataclass(frozen=True)
class Scene:
    """The content of an image.

    Attributes:
        things: one to four things that do not overlap.
        ground: what is behind them.
        shadow: "contact" (a soft patch beneath), "drop" (a soft copy behind) or "none".
        caption: description in plain English.
        tag: name of GenEval's task, or "mixed".
        metadata: GenEval's line for this scene: `tag`, `include`, `exclude` (counting), `prompt` (the caption).
    """

    things: tuple[Thing, ...]
    ground: Ground
    shadow: str
    caption: str
    tag: str
    metadata: dict[str, Any]


def render(scene: Scene, pictures: Pictures, size: int | tuple[int, int] = 256) -> np.ndarray:
    """Draw a scene as uint8 (H, W, 3).

    Args:
        scene: the scene.
        pictures: images of the archive that the scene's sprites are from.
        size: side in pixels, or (height, width). Things keep their shape; the shorter side is their unit.
    """
    height, width = sides(size)
    canvas = render_ground(scene.ground, height, width)
    placed = []
    for thing in scene.things:
        box = thing.size * min(height, width)
        side = max(round(box * (1 - INSET)), 1)
        image, seen = pictures.scaled(thing.sprite, side, thing.turn, thing.mirrored)
        left, top = round(thing.x * width - side / 2), round(thing.y * height - side / 2)
        placed.append((image, left, top))
        if scene.shadow == "contact":
            _contact_shadow(canvas, left + seen[0], left + seen[2], top + seen[3])
        elif scene.shadow == "drop":
            _drop_shadow(canvas, image, left, top)
    for image, left, top in placed:
        canvas.paste(image, (left, top), image)
    return np.asarray(canvas)


def _contact_shadow(canvas: Image.Image, left: int, right: int, bottom: int) -> None:
    """Darken a soft ellipse beneath a thing, in place."""
    width = max(right - left, 4)
    height = max(round(width * 0.2), 3)
    mask = _ellipse().resize((width, height), Image.Resampling.BILINEAR)
    canvas.paste((0, 0, 0), (left, bottom - round(height * 0.62)), mask)


def _drop_shadow(canvas: Image.Image, image: Image.Image, left: int, top: int) -> None:
    """Darken a soft copy of a thing's outline, in place."""
    side = image.width
    blur, (right, down) = max(side * 0.035, 1), _DROP_SHIFT
    mask = image.getchannel("A").point([level * _DROP_OPACITY // 255 for level in range(256)])
    mask = mask.filter(ImageFilter.BoxBlur(blur))
    canvas.paste((0, 0, 0), (left + round(side * right), top + round(side * down)), mask)


@cache
def _ellipse() -> Image.Image:
    """Return a soft disc, (64, 64) levels."""
    axis = (np.arange(64) + 0.5) / 32 - 1
    radius = np.hypot(axis[:, None], axis[None, :])
    level = _CONTACT_OPACITY * np.clip(1 - radius, 0, 1) ** 0.8
    return Image.fromarray(np.rint(level).astype(np.uint8), "L")
