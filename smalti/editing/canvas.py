"""Where a picture of any size lies on the canvas that the model works on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Canvas:
    """A picture scaled to a place on the model's canvas; the rest repeats its edge. All in pixels.

    Attributes:
        size: (H, W) of the picture.
        canvas: (height, width) of what the model sees.
        place: (top, left, height, width) of the picture there.
    """

    size: tuple[int, int]
    canvas: tuple[int, int]
    place: tuple[int, int, int, int]

    def lay(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 → (height, width, 3) uint8."""
        top, left, height, width = self.place
        if (height, width) != self.size:
            image = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
            pixels = np.array(image)
        return np.pad(pixels, (*self._around(), (0, 0)), mode="edge")

    def lay_mask(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) bool → (height, width) bool: the pixels of the canvas that a mask touches."""
        (H, W), (_, _, height, width) = self.size, self.place
        # How many pixels of the mask lie before each row and column.
        before = np.zeros((H + 1, W + 1), dtype=np.int64)
        before[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
        (top, bottom), (left, right) = _spans(H, height), _spans(W, width)
        count = (
            before[bottom][:, right] - before[top][:, right] - before[bottom][:, left] + before[top][:, left]
        )
        return np.pad(count > 0, self._around(), mode="edge")

    def lift(self, image: Image.Image, rows: tuple[int, int]) -> Image.Image:
        """Some rows of the picture from the canvas: an image of the canvas's size → of size (W, last − first).

        Rows at a time, so that large pictures need not be held in float; what lies beside them counts as well.
        """
        (H, W), (top, left, height, width) = self.size, self.place
        first, last = rows
        box = (left, top + height * first / H, left + width, top + height * last / H)
        return image.resize((W, last - first), Image.Resampling.BICUBIC, box=box)

    def grown(self, edges: tuple[int, int, int, int], unit: int) -> tuple[Canvas, tuple[int, int]]:
        """The canvas of the same picture with more on its edges, at the same scale, and how far what was there moved.

        What was on the canvas stays in place but for a shift by multiples of `unit`, so that its tokens stay valid.

        Args:
            edges: pixels of the picture to add at the left, top, right and bottom.
            unit: what the canvas's sides are multiples of.

        Returns:
            The canvas, and the pixels of it by which everything moved down and to the right.
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
        """How much of the canvas lies above and below, left and right of the picture."""
        top, left, height, width = self.place
        return (top, self.canvas[0] - top - height), (left, self.canvas[1] - left - width)


def fit(size: tuple[int, int], canvas: tuple[int, int]) -> Canvas:
    """The largest place in the middle of a canvas that keeps a picture's aspect; both (height, width)."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (min(most, max(1, round(side * scale))) for side, most in zip(size, canvas, strict=True))
    return Canvas(size, canvas, ((canvas[0] - height) // 2, (canvas[1] - width) // 2, height, width))


def _spans(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last + 1 of the pixels that lie under each of the cells; several cells may share one."""
    cell = np.arange(cells)
    return cell * pixels // cells, -(-(cell + 1) * pixels // cells)
