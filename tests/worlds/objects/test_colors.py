from __future__ import annotations

import numpy as np
import pytest

from smalti.worlds.objects.colors import COLOR_NAMES, color_votes, measured_color
from smalti.worlds.scenes.palette import BACKGROUNDS, COLORS


def square(
    color: tuple[int, ...], other: tuple[int, ...] = (128, 128, 128), share: float = 1.0
) -> np.ndarray:
    """Return (20, 20, 4) uint8 with a share of its rows in one colour and the rest in another."""
    pixels = np.full((20, 20, 4), 255, np.uint8)
    pixels[..., :3] = other
    pixels[: round(20 * share), :, :3] = color
    return pixels


def test_the_ten_colors_are_those_of_scenes() -> None:
    assert set(COLOR_NAMES) == set(COLORS)


@pytest.mark.parametrize("name", COLOR_NAMES)
def test_plain_colors(name: str) -> None:
    assert measured_color(square(COLORS[name])) == name


@pytest.mark.parametrize("name", ["red", "green", "blue", "purple", "brown", "black"])
@pytest.mark.parametrize("factor", [0.85, 1.1])
def test_light_and_shade_keep_a_name(name: str, factor: float) -> None:
    color = tuple(min(round(value * factor), 255) for value in COLORS[name])
    assert measured_color(square(color)) == name


@pytest.mark.parametrize("name", ["grey", "beige", "slate"])
def test_quiet_tints_have_no_name(name: str) -> None:
    assert measured_color(square(BACKGROUNDS[name])) is None


def test_coverage() -> None:
    for share, expected in ((0.6, None), (0.65, "red"), (0.9, "red")):
        assert measured_color(square(COLORS["red"], share=share)) == expected
    assert measured_color(square(COLORS["red"], share=0.4), coverage=0.3) == "red"


def test_only_visible_pixels_vote() -> None:
    pixels = square(COLORS["red"], COLORS["blue"], 0.5)
    pixels[10:, :, 3] = 127
    assert measured_color(pixels) == "red"
    pixels[..., 3] = 0
    assert measured_color(pixels) is None


def test_votes_are_shares() -> None:
    votes = color_votes(square(COLORS["green"], COLORS["white"], 0.25)[..., :3])
    assert votes.shape == (10,) and votes.sum() == pytest.approx(1)
    assert votes[COLOR_NAMES.index("green")] == pytest.approx(0.25)
    assert color_votes(np.empty((0, 3), np.uint8)).sum() == 0
