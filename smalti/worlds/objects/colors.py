"""Colours of things: which of GenEval's ten colours covers most of an image, by a vote of its pixels.

Each colour has a few examples in sRGB, and so do greys, beiges and teals, which have no name here. A pixel votes for
the name of the example that is nearest in CIE Lab, where lightness counts for less than hue.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

COLOR_NAMES = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""GenEval's ten colours. `color_votes` counts them in this order."""

COVERAGE = 0.65
"""Smallest share of the visible pixels that gives an image its colour."""

_EXAMPLES: dict[str | None, str] = {
    "red": "dc2028 ff0000 b4141e 8c0a14 f83a2f eb4034 e84a3c 6e0a12 d02c2c c1272d dd2e44",
    "orange": "fa8410 ff6723 ffa028 e66e14 ffa64d f4900c d9730d ff8a3c",
    "yellow": "fcdc18 fcc419 fff078 d4af37 ffd33b f9c23c ffe36c ffcc4d e8c020 fff2a8",
    "green": (
        "189840 00c850 78c83c 006428 86d64f 3c7814 96c86e 283c19 4caf50 009678 6e823c b2df8a 1e5a32 00a651 "
        "5c913b 3e721d c6e77b 7cb342 50783c"
    ),
    "blue": (
        "1c58dc 0000ff 3c96f0 14286e 87bef0 00aae6 283ca0 6482be 0078aa aad7fa 55acee 3b88c3 226699 0c2c5a "
        "5078a0 4fc3f7 26a6ff 0074ba 1c2d50 88c9f9 bdddf4"
    ),
    "purple": "802cb0 a05ad2 551e78 be96e6 7846a0 8d65c5 704891 aa8dd8 9b59b6 3c1e5a 7b1fa2 c38ffd",
    "pink": ("fc84b4 ff69b4 ffb6cb f03c8c dc2878 ffa0b4 ea596e c85082 ff6dc6 f70a8d ff8ca0 f4abba ffd1dc"),
    "brown": "7c4820 5a3219 a05f32 8b5a3c 3c2314 b47d50 6d4534 a56953 8a4b38 784630 bf6952 662113 c1694f 503428",
    "black": "18181c 000000 2d2d32 3c3c42 32283c 212121 292f33 1e2832 2a1e1e 403b42",
    "white": "fefefe f0f0f5 e6e7eb e1e1eb f5f0e1 eeeeee f2f8fc e8ecf0 ffffff ece4f2",
    None: (
        "808080 5a5a5f a0a0a5 c8c8cd bec8d2 646e7d 546e7a 99aab5 ccd6dd dcc396 ebd7b4 fad7af ffc896 00a0a0 3cc8c8 "
        "64dcd2 968c64 826e5f b9a08c 6e6e64 b0bec5 50484e 78909c 4a5560 d2b48c 9b9b9b d3d3d3 8c8278 f0a07d e8b094"
    ),
}
_LEVELS = 32  # per channel, of the table that maps pixels to votes
_LIGHTNESS = 0.7  # weight of lightness against the two other coordinates of Lab
_OPAQUE = 128  # alpha from which a pixel is visible


def measured_color(pixels: np.ndarray, coverage: float = COVERAGE) -> str | None:
    """Return the colour that covers most of an image, or None where none covers enough.

    Args:
        pixels: (h, w, 4) uint8, RGBA; pixels with an alpha below 128 do not vote.
        coverage: smallest share of the visible pixels, from 0 to 1.

    Example:
        >>> measured_color(np.full((8, 8, 4), (220, 30, 40, 255), np.uint8))
        'red'
    """
    visible = pixels[pixels[..., 3] >= _OPAQUE][:, :3]
    shares = color_votes(visible)
    best = int(shares.argmax())
    return COLOR_NAMES[best] if len(visible) and shares[best] >= coverage else None


def color_votes(rgb: np.ndarray) -> np.ndarray:
    """Return the share of each of the ten colours among pixels.

    Args:
        rgb: (..., 3) uint8 pixels in sRGB.

    Returns:
        (10,) float64 in the order of `COLOR_NAMES`. The sum is below 1 where pixels have no named colour.
    """
    index = (rgb.reshape(-1, 3) // (256 // _LEVELS)).astype(np.intp)
    votes = _table()[index[:, 0], index[:, 1], index[:, 2]]
    counts = np.bincount(votes, minlength=len(COLOR_NAMES) + 1)[: len(COLOR_NAMES)]
    return counts / max(len(votes), 1)


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """Return (32, 32, 32) uint8: the number of the colour for each range of values; 10 has no name."""
    examples = [(name, code) for name, codes in _EXAMPLES.items() for code in codes.split()]
    numbers = np.array(
        [len(COLOR_NAMES) if name is None else COLOR_NAMES.index(name) for name, _ in examples]
    )
    known = _lab(np.array([list(bytes.fromhex(code)) for _, code in examples], np.float64))
    step = 256 // _LEVELS
    middles = np.arange(_LEVELS) * step + (step - 1) / 2
    cells = _lab(np.stack(np.meshgrid(middles, middles, middles, indexing="ij"), -1).reshape(-1, 3))
    distances = (cells**2).sum(1)[:, None] + (known**2).sum(1)[None] - 2 * cells @ known.T
    return numbers[distances.argmin(1)].astype(np.uint8).reshape(_LEVELS, _LEVELS, _LEVELS)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """Return CIE Lab under D65, with lightness weighted, of (n, 3) sRGB values from 0 to 255."""
    scaled = rgb / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    cube = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = cube.T
    return np.stack([_LIGHTNESS * (116 * y - 16), 500 * (x - y), 200 * (y - z)], 1)
