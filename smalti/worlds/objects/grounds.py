"""Grounds of scenes: plain and graded colours, textures, and landscapes with a horizon."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image

from smalti.worlds.objects.textures import PERIOD, RGB, TEXTURES, mean_color, tile

COLORS: dict[str, RGB] = {
    "white": (250, 250, 250),
    "light grey": (212, 214, 217),
    "grey": (156, 160, 165),
    "dark grey": (84, 88, 94),
    "black": (26, 27, 30),
    "beige": (222, 206, 176),
    "red": (205, 52, 52),
    "dark red": (122, 28, 34),
    "orange": (240, 146, 52),
    "yellow": (246, 212, 72),
    "light yellow": (252, 240, 178),
    "green": (74, 160, 86),
    "light green": (184, 222, 178),
    "dark green": (30, 84, 54),
    "blue": (62, 116, 208),
    "light blue": (174, 210, 238),
    "dark blue": (28, 48, 104),
    "purple": (126, 76, 174),
    "light purple": (208, 190, 230),
    "pink": (240, 152, 190),
    "light pink": (250, 212, 224),
    "brown": (134, 92, 60),
}
"""Colours of plain and graded grounds (sRGB)."""

# Light and quiet colours are more frequent, because images of them look better.
_COLOR_WEIGHTS = {
    name: 3.0 if "light" in name or name in ("white", "beige") else 0.7 if "dark" in name else 1.0
    for name in COLORS
}

_QUIET_WEIGHTS = {"white": 6.0, "light grey": 3.0, "light blue": 2.0, "beige": 1.0, "dark grey": 1.0}

SKIES: dict[str, tuple[RGB, RGB]] = {
    "blue": ((84, 152, 222), (190, 222, 246)),
    "grey": ((142, 152, 164), (206, 212, 218)),
    "evening": ((92, 88, 156), (250, 178, 122)),
}
"""Skies of landscapes: colour at the top, colour at the horizon."""

LANDSCAPES = ("grass", "sand", "water", "snow")
"""Textures that a landscape may have below its horizon."""

GROUNDS: dict[str, float] = {"plain": 0.4, "gradient": 0.15, "texture": 0.2, "outdoor": 0.25}
"""Kinds of grounds, with their default weights."""

_GRADE = 0.16  # how much a graded ground is lightened at the top and darkened at the bottom


@dataclass(frozen=True)
class Ground:
    """The ground of a scene.

    Attributes:
        kind: key of `GROUNDS`.
        name: key of `COLORS` for plain and graded grounds, else a texture.
        sky: key of `SKIES` in a landscape.
        horizon: height of the horizon in a landscape, as a fraction of the image's height from the top.
        shift: place of the texture, two numbers of pixels from 0 to 255.
    """

    kind: str
    name: str
    sky: str | None = None
    horizon: float = 0.0
    shift: tuple[int, int] = (0, 0)


def draw_ground(kind: str, random: Random, horizon: float, shifted: bool) -> Ground:
    """Return a random ground.

    Args:
        kind: key of `GROUNDS`.
        random: source of every draw.
        horizon: height of the horizon in a landscape.
        shifted: whether textures have a random place.
    """
    shift = (random.randrange(PERIOD), random.randrange(PERIOD)) if shifted else (0, 0)
    if kind in ("plain", "gradient"):
        return Ground(kind, random.choices(list(COLORS), list(_COLOR_WEIGHTS.values()))[0])
    if kind == "texture":
        return Ground(kind, random.choice(TEXTURES), shift=shift)
    return Ground(kind, random.choice(LANDSCAPES), random.choice(list(SKIES)), horizon, shift)


def draw_quiet_ground(random: Random) -> Ground:
    """Return a plain ground of one of a few colours, for a scene whose caption says nothing about its ground."""
    return Ground("plain", random.choices(list(_QUIET_WEIGHTS), list(_QUIET_WEIGHTS.values()))[0])


def colors_behind(ground: Ground, top: float, bottom: float) -> list[RGB]:
    """Return the colours that a ground has between two heights, fractions of the image's height."""
    if ground.kind == "plain":
        return [COLORS[ground.name]]
    if ground.kind == "gradient":
        return [_graded(COLORS[ground.name], place) for place in (top, bottom)]
    found = [mean_color(ground.name)] if bottom > ground.horizon else []
    if ground.sky and top < ground.horizon:
        high, low = SKIES[ground.sky]
        ends = (top / ground.horizon, min(bottom / ground.horizon, 1))
        found += [_mix(high, low, place) for place in ends]
    return found


def render_ground(ground: Ground, height: int, width: int) -> Image.Image:
    """Return an RGB image of a ground."""
    if ground.kind == "plain":
        return Image.new("RGB", (width, height), COLORS[ground.name])
    if ground.kind == "gradient":
        rows = np.array([_graded(COLORS[ground.name], (y + 0.5) / height) for y in range(height)], np.uint8)
        return Image.fromarray(np.broadcast_to(rows[:, None], (height, width, 3)).copy(), "RGB")
    unit = PERIOD / min(height, width)
    image = Image.fromarray(_canvas(ground, round(height * unit), round(width * unit)), "RGB")
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def _canvas(ground: Ground, height: int, width: int) -> np.ndarray:
    """Return (height, width, 3) uint8, a textured ground at its own resolution."""
    texture, (down, right) = tile(ground.name), ground.shift
    columns = np.arange(right, right + width) % (2 * PERIOD)
    if ground.sky is None:
        if max(height, width) <= PERIOD:
            return texture[down : down + height, right : right + width].copy()
        return texture[(np.arange(down, down + height) % (2 * PERIOD))[:, None], columns]
    horizon = round(ground.horizon * height)
    high, low = SKIES[ground.sky]
    sky = np.array([_mix(high, low, (y + 0.5) / max(horizon, 1)) for y in range(horizon)], np.uint8)
    # Rows near the horizon are far away, so that more of the texture lies in each of them.
    depth = (np.arange(height - horizon) + 0.5) / (height - horizon)
    rows = (down + (PERIOD * depth**0.6).astype(int)) % (2 * PERIOD)
    land = texture[rows[:, None], columns] if width > PERIOD else texture[rows, right : right + width]
    return np.concatenate([np.broadcast_to(sky.reshape(-1, 1, 3), (horizon, width, 3)), land])


@lru_cache(8192)
def _graded(color: RGB, place: float) -> RGB:
    """Return the colour of a graded ground at a height from 0 to 1: lighter above, darker below."""
    end: RGB = (255, 255, 255) if place < 0.5 else (0, 0, 0)
    return _mix(color, end, abs(place - 0.5) * 2 * _GRADE)


def _mix(first: RGB, second: RGB, share: float) -> RGB:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
