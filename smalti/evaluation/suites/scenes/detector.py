"""Detection of a scene's objects by classical vision: regions unlike the background, their colour and shape.

The detector knows the names of ten colours and ten shapes, but not how scenes are rendered. It expects images from an
image tokenizer: slightly blurred, slightly off in colour, with noise.
"""

from __future__ import annotations

import numpy as np

from smalti.errors import SmaltiError

try:
    from skimage.color import rgb2lab
    from skimage.filters import gaussian
    from skimage.measure import label, regionprops
    from skimage.morphology import dilation, disk, erosion
    from skimage.transform import AffineTransform, resize, warp
except ImportError as error:
    raise SmaltiError("evaluation needs scikit-image: pip install 'smalti[evaluate]'") from error

from smalti.evaluation.geneval import Detection
from smalti.evaluation.suites.scenes.outlines import AREA, SIDE, masks

# A few sRGB examples of each colour; a colour has the name of the nearest example in Lab.
_EXAMPLES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((215, 25, 35), (235, 50, 45), (185, 25, 30)),
    "orange": ((250, 130, 20), (240, 150, 40), (245, 110, 30)),
    "yellow": ((250, 220, 30), (240, 210, 70), (255, 235, 60)),
    "green": ((25, 150, 60), (60, 170, 80), (20, 120, 50)),
    "blue": ((30, 90, 220), (60, 110, 210), (30, 60, 180)),
    "purple": ((130, 45, 175), (150, 80, 185), (105, 35, 140)),
    "pink": ((250, 130, 180), (240, 160, 190), (255, 105, 165)),
    "brown": ((125, 72, 32), (140, 90, 55), (95, 55, 30)),
    "black": ((20, 20, 25), (50, 50, 55)),
    "white": ((252, 252, 252), (240, 240, 240)),
}
COLORS = tuple(_EXAMPLES)

_WORKING_SIDE = 256
_LEAST_DIFFERENCE = 12.0  # distance from the background, in Lab; below it a pixel is background
_LEAST_AREA = 0.004  # fraction of the image; smaller specks are noise
_LEAST_OVERLAP = 0.75  # intersection over union with a shape's outline; below it a blob is no shape
_SECOND_COLOR_SHARE = 0.15  # fraction of a blob's inside; above it the blob is two objects that touch


def detect(image: np.ndarray) -> list[Detection]:
    """Return the objects in an image, best fit first.

    Args:
        image: (H, W, 3) uint8.

    Raises:
        SmaltiError: the image has another shape or dtype.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise SmaltiError(f"image must be uint8 (H, W, 3), not {image.dtype} {image.shape}", argument="image")
    lab = _lab(image)
    height, width = lab.shape[:2]
    background = _background(lab)
    offset = lab - background
    different = np.linalg.norm(offset, axis=-1) > _LEAST_DIFFERENCE
    blobs = label(different, connectivity=1)
    found: list[Detection] = []
    for region in regionprops(blobs):
        if region.area < _LEAST_AREA * height * width:
            continue
        for part, color in _split_by_color(lab, blobs == region.label):
            coverage = _coverage(offset, part, different)
            detection = _match(coverage, color)
            if detection is not None:
                found.append(detection)
    return sorted(found, key=lambda detection: -detection.score)


def _lab(image: np.ndarray) -> np.ndarray:
    """Return the image in Lab, (H, W, 3) float32, smoothed and reduced to the working size."""
    pixels = image.astype(np.float32) / 255
    shrink = _WORKING_SIDE / min(image.shape[:2])
    if shrink < 0.8:
        sides = (round(image.shape[0] * shrink), round(image.shape[1] * shrink))
        pixels = resize(pixels, sides, anti_aliasing=True)
    sigma = min(pixels.shape[:2]) / _WORKING_SIDE
    return rgb2lab(gaussian(pixels, sigma=sigma, channel_axis=-1)).astype(np.float32)


def _background(lab: np.ndarray) -> np.ndarray:
    """Fit the background's Lab in every row, (H, 1, 3), by a straight line over the rows, to follow gradients.

    The fit starts from the median of the image's frame and uses all pixels near it.
    """
    height, width = lab.shape[:2]
    frame = max(1, round(0.02 * min(height, width)))
    inner = np.zeros((height, width), dtype=bool)
    inner[frame:-frame, frame:-frame] = True
    rows = np.linspace(-1, 1, height, dtype=np.float32)
    background = np.broadcast_to(np.median(lab[~inner], axis=0), (height, 1, 3))
    for _ in range(3):
        near = np.linalg.norm(lab - background, axis=-1) < _LEAST_DIFFERENCE
        weight = near.sum(axis=1, dtype=np.float32)
        if np.count_nonzero(weight) < 2:
            break
        # Weighted least squares with one (weighted) mean a row.
        mean = (lab * near[..., None]).sum(axis=1) / np.maximum(weight, 1)[:, None]
        design = np.stack([np.ones_like(rows), rows], axis=-1)
        normal = design.T @ (design * weight[:, None])
        line = np.linalg.solve(normal + 1e-3 * np.eye(2), design.T @ (mean * weight[:, None]))
        background = (design @ line)[:, None, :].astype(np.float32)
    return background


def _name_colors(lab: np.ndarray) -> np.ndarray:
    """Return the index into `COLORS` of each Lab colour: (n, 3) → (n,)."""
    examples = [(index, rgb) for index, name in enumerate(COLORS) for rgb in _EXAMPLES[name]]
    owner = np.array([index for index, _ in examples])
    points = rgb2lab(np.array([[rgb for _, rgb in examples]], dtype=np.float32) / 255)[0]
    return owner[((lab[:, None, :] - points) ** 2).sum(axis=-1).argmin(axis=1)]


def _split_by_color(lab: np.ndarray, blob: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Split a blob into parts of one colour each, with its name: usually one part, more where objects touch."""
    least = _LEAST_AREA * blob.size
    # Edges blend with the background into other colours, so only the inside counts.
    radius = max(1, round(min(blob.shape) / 128))
    inside = erosion(blob, disk(radius))
    if inside.sum() < 0.2 * least:
        inside = blob
    names = _name_colors(lab[inside])
    share = np.bincount(names, minlength=len(COLORS)) / len(names)
    first, *others = np.argsort(-share)
    present = [first, *(index for index in others if share[index] >= _SECOND_COLOR_SHARE)]
    if len(present) == 1:
        return [(blob, COLORS[present[0]])]
    medians = np.stack([np.median(lab[inside][names == index], axis=0) for index in present])
    nearest = ((lab[:, :, None, :] - medians) ** 2).sum(axis=-1).argmin(axis=-1)
    parts = []
    for order, index in enumerate(present):
        pieces = label(blob & (nearest == order), connectivity=1)
        kept = [piece.label for piece in regionprops(pieces) if piece.area >= least]
        parts += [(pieces == number, COLORS[index]) for number in kept]
    return parts


def _coverage(offset: np.ndarray, part: np.ndarray, different: np.ndarray) -> np.ndarray:
    """Return the fraction of each pixel that the part covers, (H, W) float32 from 0 to 1.

    The edge is where the colour is half-way between the background's and the part's, so blur does not move it.
    """
    inside = erosion(part, disk(1))
    color = np.median(offset[inside if inside.any() else part], axis=0)
    around = dilation(part, disk(2)) & (part | ~different)
    share = (offset @ color) / max(float(color @ color), 1e-6)
    return np.where(around, np.clip((share - 0.5) * 3 + 0.5, 0, 1), 0).astype(np.float32)


def _match(coverage: np.ndarray, color: str) -> Detection | None:
    """Return the best fitting shape for a coverage map (H, W), at the outlines' area and centroid."""
    height, width = coverage.shape
    area = float(coverage.sum())
    if area < _LEAST_AREA * height * width:
        return None
    columns, rows = np.arange(width), np.arange(height)
    x = float(coverage.sum(axis=0) @ columns) / area
    y = float(coverage.sum(axis=1) @ rows) / area
    # This maps a normalised mask's pixels to the image's.
    scale = (area / AREA) ** 0.5 / SIDE
    middle = (SIDE - 1) / 2
    mapping = AffineTransform(scale=(scale, scale), translation=(x - middle * scale, y - middle * scale))
    mask = warp(coverage, mapping, output_shape=(SIDE, SIDE), order=1)
    outlines, names = masks()
    overlap = np.minimum(outlines, mask).sum(axis=(1, 2)) / np.maximum(outlines, mask).sum(axis=(1, 2))
    best = int(overlap.argmax())
    if overlap[best] < _LEAST_OVERLAP:
        return None
    xs, ys = np.flatnonzero(coverage.max(axis=0) > 0.5), np.flatnonzero(coverage.max(axis=1) > 0.5)
    left, right = float(xs[0]) / width, float(xs[-1] + 1) / width
    top, bottom = float(ys[0]) / height, float(ys[-1] + 1) / height
    return Detection(names[best], color, (left, top, right, bottom), float(overlap[best]))
