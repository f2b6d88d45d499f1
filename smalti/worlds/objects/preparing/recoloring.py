"""Models in named colours: which materials take the colour, its tones, and whether the image shows it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smalti.common.checks import check_choice
from smalti.worlds.objects.colors import COLOR_NAMES, measured_color
from smalti.worlds.objects.preparing.rendering import Model, Tint, View, paint

COVERAGE = 0.5
"""Smallest share of the visible pixels that must show the new colour."""

_MAIN = 0.62  # smallest share of what is visible that the main materials have together
_CLEAR = 0.6  # opacity below which a material is glass and keeps its colour

# Tones of each colour in sRGB, and how much of the light's contrast they keep: light colours would leave their name.
_TONES: dict[str, tuple[float, tuple[str, ...]]] = {
    "red": (1.0, ("d8202a", "c81e1e", "e8302c")),
    "orange": (0.6, ("fa8410", "ff7a1e", "f88a18")),
    "yellow": (0.5, ("fcd818", "f8cc18", "ffe040")),
    "green": (1.0, ("20a048", "3ca83c", "187838")),
    "blue": (1.0, ("1c58dc", "2848c0", "3c8cf0")),
    "purple": (1.0, ("802cb0", "9048c8", "6c3cb0")),
    "pink": (0.6, ("fc84b4", "ff69b4", "f878a8")),
    "brown": (0.8, ("7c4820", "8b5a3c", "6a3c1c")),
    "black": (1.0, ("1c1c20", "242428", "141418")),
    "white": (0.4, ("fcfcfe", "f8f8fa", "fcfaf4")),
}


def main_materials(model: Model, views: Sequence[View]) -> tuple[int, ...]:
    """Return the materials that cover most, from the largest on, until they have 62 % of what is visible.

    Glass keeps its colour and is left out.
    """
    count = len(model.mesh.materials)
    counts = np.sum([np.bincount(view.material, minlength=count) for view in views], axis=0)
    found: list[int] = []
    covered = 0
    for row in np.argsort(-counts, kind="stable").tolist():
        if covered >= _MAIN * counts.sum() or not counts[row]:
            break
        if model.mesh.materials[row].opacity >= _CLEAR:
            found.append(row)
            covered += int(counts[row])
    return tuple(found)


def recolored(
    model: Model, view: View, materials: Sequence[int], color: str, tone: int = 0
) -> np.ndarray | None:
    """Return an image whose main materials have a named colour, or None where the image does not show it.

    Args:
        model: the model.
        view: what the camera sees of it.
        materials: the materials that take the colour.
        color: one of GenEval's ten colours.
        tone: number of a tone of the colour; tones repeat.

    Returns:
        (128, 128, 4) uint8 sRGB with alpha.

    Raises:
        SmaltiError: the colour is unknown.
    """
    check_choice("color", color, COLOR_NAMES)
    contrast, tones = _TONES[color]
    red, green, blue = bytes.fromhex(tones[tone % len(tones)])
    tint = Tint((red / 255, green / 255, blue / 255), contrast)
    image = paint(model, view, dict.fromkeys(materials, tint))
    return image if measured_color(image, COVERAGE) == color else None
