"""The place of an image of any size on the model's canvas."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Canvas:
    """The place of an image on the model's canvas; the rest of the canvas repeats the image's edge.

    Attributes:
        size: (H, W) of the image in pixels.
        canvas: (height, width) of the canvas in pixels.
        place: (top, left, height, width) of the scaled image on the canvas, in pixels.
    """

    size: tuple[int, int]
    canvas: tuple[int, int]
    place: tuple[int, int, int, int]

    def put(self, pixels: np.ndarray) -> np.ndarray:
        """Return the canvas with an image put on it: (H, W, 3) uint8 → (height, width, 3) uint8."""
        top, left, height, width = self.place
        if (height, width) != self.size:
            image = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
            pixels = np.array(image)
        return np.pad(pixels, (*self._around(), (0, 0)), mode="edge")

    def put_mask(self, mask: np.ndarray) -> np.ndarray:
        """Return the pixels of the canvas that a mask touches: (H, W) bool → (height, width) bool."""
        (H, W), (_, _, height, width) = self.size, self.place
        # Number of mask pixels above each row and left of each column.
        before = np.zeros((H + 1, W + 1), dtype=np.int64)
        before[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
        (top, bottom), (left, right) = _spans(H, height), _spans(W, width)
        count = (
            before[bottom][:, right] - before[top][:, right] - before[bottom][:, left] + before[top][:, left]
        )
        return np.pad(count > 0, self._around(), mode="edge")

    def lift(self, image: Image.Image, rows: tuple[int, int]) -> Image.Image:
        """Return some rows of the image from its canvas.

        A caller that asks for a few rows at a time needs little memory for large images. Pixels beside the rows count
        in the scaling, so the parts fit together.

        Args:
            image: the canvas, or values of one channel for each of its pixels.
            rows: the first row of the image, and the row after the last one.

        Returns:
            An image of W × (last − first) pixels.
        """
        (H, W), (top, left, height, width) = self.size, self.place
        first, last = rows
        box = (left, top + height * first / H, left + width, top + height * last / H)
        return image.resize((W, last - first), Image.Resampling.BICUBIC, box=box)

    def grown(self, edges: tuple[int, int, int, int], unit: int) -> tuple[Canvas, tuple[int, int]]:
        """Return the canvas of the image with pixels added at its edges, at the same scale, and its shift.

        The content of the canvas moves by multiples of `unit` alone, so that its tokens stay valid.

        Args:
            edges: image pixels to add at the left, top, right and bottom.
            unit: pixels whose multiples the canvas's sides are.

        Returns:
            The grown canvas, and the shift of the old content down and to the right, in pixels of the canvas.
        """
        left, top, right, bottom = edges
        (H, W), (y, x, height, width) = self.size, self.place
        scale = (width / W, height / H)
        added = [max(1, round(edge * scale[axis % 2])) if edge else 0 for axis, edge in enumerate(edges)]
        room = (x, y, self.canvas[1] - x - width, self.canvas[0] - y - height)
        more = [math.ceil(max(0, need - has) / unit) * unit for need, has in zip(added, room, strict=True)]
        grown = Canvas(
            size=(H + top + bottom, W + left + right),
            canvas=(self.canvas[0] + more[1] + more[3], self.canvas[1] + more[0] + more[2]),
            place=(
                y + more[1] - added[1],
                x + more[0] - added[0],
                height + added[1] + added[3],
                width + added[0] + added[2],
            ),
        )
        return grown, (more[1], more[0])

    def _around(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the canvas pixels (above, below) and (left, right) of the image."""
        top, left, height, width = self.place
        return (top, self.canvas[0] - top - height), (left, self.canvas[1] - left - width)


def fit(size: tuple[int, int], canvas: tuple[int, int]) -> Canvas:
    """Return the canvas with an image as large as fits in its middle; both sizes are (height, width) in pixels."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (min(most, max(1, round(side * scale))) for side, most in zip(size, canvas, strict=True))
    return Canvas(size, canvas, ((canvas[0] - height) // 2, (canvas[1] - width) // 2, height, width))


def _spans(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last + 1 of the pixels that lie under each of the cells; several cells may share one."""
    cell = np.arange(cells)
    return cell * pixels // cells, -(-(cell + 1) * pixels // cells)
