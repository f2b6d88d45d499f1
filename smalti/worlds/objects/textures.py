"""Procedural textures of grounds, as periodic tiles of 256×256 pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

PERIOD = 256
"""Side of a tile in pixels, and of the canvas that grounds are drawn on."""

RGB = tuple[int, int, int]

# Darkest and lightest colour of each texture (sRGB).
_TINTS: dict[str, tuple[RGB, RGB]] = {
    "grass": ((58, 118, 44), (132, 182, 78)),
    "sand": ((206, 178, 128), (238, 216, 170)),
    "wood": ((138, 92, 52), (196, 148, 98)),
    "water": ((38, 104, 158), (118, 182, 216)),
    "snow": ((216, 226, 238), (250, 252, 255)),
    "brick": ((132, 62, 48), (186, 98, 76)),
    "checker": ((196, 204, 212), (244, 246, 248)),
    "paper": ((226, 218, 200), (248, 243, 231)),
    "stone": ((112, 114, 118), (176, 178, 182)),
    "carpet": ((122, 44, 62), (168, 78, 92)),
}

TEXTURES = tuple(_TINTS)


@cache
def tile(name: str) -> np.ndarray:
    """Return a texture, (512, 512, 3) uint8: its tile twice in each direction, so that slices start anywhere."""
    dark, light = (np.array(color, np.float32) for color in _TINTS[name])
    shade = np.clip(_SHADES[name](), 0, 1)[..., None].astype(np.float32)
    pixels = np.rint(dark + (light - dark) * shade).astype(np.uint8)
    return np.tile(pixels, (2, 2, 1))


@cache
def mean_color(name: str) -> RGB:
    """Return the mean colour of a texture."""
    red, green, blue = tile(name).reshape(-1, 3).mean(axis=0).round().astype(int).tolist()
    return red, green, blue


def _noise(number: int, height: float, width: float) -> np.ndarray:
    """Return periodic noise, (256, 256) float, of mean 0 and deviation 1, with features of this height and width."""
    white = np.random.default_rng(number).standard_normal((PERIOD, PERIOD))
    rows, columns = np.fft.fftfreq(PERIOD)[:, None], np.fft.rfftfreq(PERIOD)[None, :]
    response = np.exp(-2 * np.pi**2 * ((rows * height) ** 2 + (columns * width) ** 2))
    response[0, 0] = 0
    noise = np.fft.irfft2(np.fft.rfft2(white) * response, s=(PERIOD, PERIOD))
    return noise / noise.std()


def _grass() -> np.ndarray:
    return 0.5 + 0.1 * _noise(1, 4.0, 1.2) + 0.1 * _noise(2, 12, 12)


def _sand() -> np.ndarray:
    ripples = np.sin(2 * np.pi * (np.arange(PERIOD)[:, None] / 32 + 0.12 * _noise(3, 24, 40)))
    return 0.5 + 0.06 * _noise(4, 1, 1) + 0.14 * ripples


def _wood() -> np.ndarray:
    rows = np.arange(PERIOD)[:, None]
    grain = np.sin(2 * np.pi * (rows / 16 + 0.35 * _noise(5, 8, 64)))
    seams = (rows % 64 < 2) * 0.35
    return 0.55 + 0.12 * grain + 0.06 * _noise(6, 1, 20) - seams


def _water() -> np.ndarray:
    waves = np.sin(2 * np.pi * (np.arange(PERIOD)[:, None] / 32 + 0.4 * _noise(7, 7, 22)))
    return 0.42 + 0.18 * waves + 0.1 * _noise(8, 2.5, 9)


def _snow() -> np.ndarray:
    return 0.6 + 0.18 * _noise(9, 20, 32) + 0.04 * _noise(10, 1, 1)


def _brick() -> np.ndarray:
    rows, columns = np.arange(PERIOD)[:, None], np.arange(PERIOD)[None, :]
    course = rows // 32
    shifted = (columns + 32 * (course % 2)) % PERIOD
    mortar = (rows % 32 < 3) | (shifted % 64 < 3)
    tone = np.random.default_rng(11).uniform(-0.2, 0.2, (8, 4))[course % 8, (shifted // 64) % 4]
    return np.where(mortar, 1.0, 0.4 + tone + 0.05 * _noise(12, 1, 1))


def _checker() -> np.ndarray:
    rows, columns = np.arange(PERIOD)[:, None], np.arange(PERIOD)[None, :]
    return ((rows // 32 + columns // 32) % 2).astype(float)


def _paper() -> np.ndarray:
    return 0.6 + 0.08 * _noise(13, 1, 1) + 0.12 * _noise(14, 10, 10)


def _stone() -> np.ndarray:
    return 0.5 + 0.06 * _noise(15, 1, 1) + 0.16 * _noise(16, 7, 9)


def _carpet() -> np.ndarray:
    weave = np.sin(2 * np.pi * np.arange(PERIOD)[:, None] / 8) * np.sin(
        2 * np.pi * np.arange(PERIOD)[None, :] / 8
    )
    return 0.5 + 0.12 * weave + 0.05 * _noise(17, 1.2, 1.2)


_SHADES: dict[str, Callable[[], np.ndarray]] = {
    "grass": _grass,
    "sand": _sand,
    "wood": _wood,
    "water": _water,
    "snow": _snow,
    "brick": _brick,
    "checker": _checker,
    "paper": _paper,
    "stone": _stone,
    "carpet": _carpet,
}
