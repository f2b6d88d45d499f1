"""Maps over tokens become regions of pixels: sharpened along the image's edges, cut at a threshold, framed by boxes."""

from __future__ import annotations

import torch
from torch.nn import functional as F

# Quantile of a map that counts as its largest value, so that one odd token does not set the scale.
_LARGE = 0.98
# Half side of the window of the guided filter, in tokens, and its variance of colours (of 0 to 1) that counts as flat.
_WINDOW, _FLAT = 1.5, 1e-4
# A separate part of a region below this fraction of the largest part's pixels is noise.
_LEAST_PART = 0.2
# Cells a side that connected parts are found on.
_COARSE = 128


def scaled(values: torch.Tensor) -> torch.Tensor:
    """Return a map scaled to 0 to 1: its median, which is background, becomes 0; nearly its largest value becomes 1.

    Args:
        values: (h, w) float.
    """
    raised = (values.float() - values.float().median()).clamp_min(0)
    large = float(raised.flatten().quantile(_LARGE)) or float(raised.max())
    return (raised / large).clamp_max(1) if large > 0 else raised


def sharpened(values: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Return a map over tokens as one over pixels that follows the edges of the image.

    This is the guided filter with a colour guide (He, Sun, Tang, ECCV 2010). In each window, the result is a linear
    function of the image's colours that is close to the enlarged map.

    Args:
        values: (h, w) float from 0 to 1.
        pixels: (3, H, W) uint8; its sides are multiples of the map's.

    Returns:
        (H, W) float32 from 0 to 1.
    """
    H, W = pixels.shape[1:]
    guide = pixels.float() / 255
    enlarged = F.interpolate(values.float()[None, None], size=(H, W), mode="bilinear", align_corners=False)[0]
    radius = max(1, round(_WINDOW * H / values.shape[0]))
    mean, target = _box(guide, radius), _box(enlarged, radius)
    covariance = _box(guide * enlarged, radius) - mean * target
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    products = _box(torch.stack([guide[i] * guide[j] for i, j in pairs]), radius)
    a, b, c, d, e, f = (
        product - mean[i] * mean[j] + (_FLAT if i == j else 0)
        for product, (i, j) in zip(products, pairs, strict=True)
    )
    # The inverse of a symmetric 3×3 matrix by its cofactors.
    rows = torch.stack(
        [d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b]
    )
    determinant = a * rows[0] + b * rows[1] + c * rows[2]
    x, y, z = covariance
    slope = torch.stack(
        [
            rows[0] * x + rows[1] * y + rows[2] * z,
            rows[1] * x + rows[3] * y + rows[4] * z,
            rows[2] * x + rows[4] * y + rows[5] * z,
        ]
    ) / determinant.clamp_min(1e-12)
    offset = target[0] - (slope * mean).sum(0)
    return ((_box(slope, radius) * guide).sum(0) + _box(offset[None], radius)[0]).clamp(0, 1)


def _box(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Return the mean over the window around each pixel, inside the image: (C, H, W) → (C, H, W)."""
    rows = F.avg_pool2d(x[None], (2 * radius + 1, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, 2 * radius + 1), 1, (0, radius), count_include_pad=False)[0]


def region(values: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return the pixels above a threshold, without small separate parts: (H, W) float → (H, W) bool."""
    chosen = values > threshold
    places = parts(chosen)
    counts = torch.bincount(places.flatten(), minlength=1)
    counts[0] = 0
    return chosen & (counts >= _LEAST_PART * counts.max())[places]


def parts(chosen: torch.Tensor) -> torch.Tensor:
    """Return the number of the connected part that each chosen pixel is in, from 1, the largest first; 0 elsewhere.

    Pixels that touch at a corner are connected, and in large images those that are a few pixels apart.
    """
    step = -(-max(chosen.shape) // _COARSE)
    coarse = F.max_pool2d(chosen.float()[None, None], step, ceil_mode=True)[0, 0] > 0
    numbers = torch.arange(1, coarse.numel() + 1, dtype=torch.float64).view(coarse.shape) * coarse
    while True:
        # Each cell takes the largest number around it, until every part has a single number.
        spread = F.max_pool2d(numbers[None, None], 3, stride=1, padding=1)[0, 0] * coarse
        if torch.equal(spread, numbers):
            break
        numbers = spread
    fine = numbers.repeat_interleave(step, 0).repeat_interleave(step, 1)[: chosen.shape[0], : chosen.shape[1]]
    _, places, counts = (fine * chosen).unique(return_inverse=True, return_counts=True)
    if bool(chosen.all()):
        return places + 1
    order = torch.zeros(len(counts), dtype=torch.long)
    order[1 + counts[1:].argsort(descending=True, stable=True)] = torch.arange(1, len(counts))
    return order[places]


def boxes(chosen: torch.Tensor) -> list[tuple[int, int, int, int]]:
    """Return the box around each connected part of a region: (left, top, right, bottom), the last two exclusive.

    Example:
        >>> chosen = torch.zeros(4, 6, dtype=torch.bool)
        >>> chosen[1:3, 2:5] = True
        >>> boxes(chosen)
        [(2, 1, 5, 3)]
    """
    places = parts(chosen)
    found = []
    for number in range(1, int(places.max()) + 1):
        rows, columns = (places == number).nonzero(as_tuple=True)
        found.append((int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
    return found
