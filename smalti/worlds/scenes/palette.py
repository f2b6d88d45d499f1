"""The colours of scenes: GenEval's ten for objects, six quiet tints for backgrounds (sRGB, 0 to 255)."""

from __future__ import annotations

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 32, 40),
    "orange": (250, 132, 16),
    "yellow": (252, 220, 24),
    "green": (24, 152, 64),
    "blue": (28, 88, 220),
    "purple": (128, 44, 176),
    "pink": (252, 132, 180),
    "brown": (124, 72, 32),
    "black": (24, 24, 28),
    "white": (254, 254, 254),
}

# No background has the name of an object's colour, so "on a sky background" never reads as a blue object.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "grey": (186, 188, 190),
    "beige": (212, 196, 164),
    "sky": (166, 200, 224),
    "mint": (170, 210, 184),
    "lavender": (192, 182, 218),
    "slate": (136, 150, 164),
}
