from __future__ import annotations

from dataclasses import replace

import numpy as np

from smalti.worlds.objects.archive import Sprite
from smalti.worlds.objects.preparing.duplicates import Duplicates, thumbnail

CAT = Sprite("flat/cat", "cat", "cat", "flat")


def disc(radius: float, color: tuple[int, int, int] = (200, 60, 20)) -> np.ndarray:
    y, x = np.mgrid[:128, :128] - 63.5
    pixels = np.zeros((128, 128, 4), np.uint8)
    pixels[x**2 + y**2 < radius**2] = (*color, 255)
    return pixels


def test_near_duplicates() -> None:
    duplicates = Duplicates()
    assert duplicates.add(CAT, disc(50))
    assert not duplicates.add(replace(CAT, key="flat/cat-2", name="tabby"), disc(50))
    assert not duplicates.add(CAT, disc(50.4))
    assert duplicates.add(CAT, disc(40))
    assert duplicates.add(CAT, disc(50, (20, 60, 200)))


def test_other_nouns_styles_views_and_colors_are_no_duplicates() -> None:
    duplicates = Duplicates()
    changes = (
        {},
        {"noun": "dog"},
        {"style": "noto"},
        {"view": 30},
        {"view": 30, "recolored": True, "color": "red"},
    )
    assert all(duplicates.add(replace(CAT, **change), disc(50)) for change in changes)


def test_transparent_pixels_have_no_color() -> None:
    pixels = disc(50)
    changed = pixels.copy()
    changed[pixels[..., 3] == 0, :3] = 77
    assert np.array_equal(thumbnail(pixels), thumbnail(changed))
    assert thumbnail(pixels).shape == (16, 16, 4)
