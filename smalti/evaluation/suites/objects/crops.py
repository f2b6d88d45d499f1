"""Crops of things, as the classifier sees them: square, on grey, with the mask as a fourth channel."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from smalti.evaluation.suites.objects.edges import CROP

MARGIN = 1.15
"""Side of a crop, in longer sides of the thing's box."""

_GREY = 0.5


def on_grey(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the classifier's input, (B, 4, h, w): the image on grey outside the mask, and the mask.

    Args:
        images: (B, 3, h, w) floats from 0 to 1.
        masks: (B, 1, h, w) floats from 0 to 1.
    """
    return torch.cat([images * masks + _GREY * (1 - masks), masks], dim=1)


def cut(image: torch.Tensor, masks: torch.Tensor, boxes: np.ndarray) -> torch.Tensor:
    """Return crops of the things in one image, (n, 4, 40, 40).

    Args:
        image: (3, H, W) floats from 0 to 1.
        masks: (n, H, W) floats from 0 to 1, one mask a thing.
        boxes: (n, 4) boxes in pixels: left, top, right, bottom.
    """
    height, width = image.shape[1:]
    crops = []
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        side = MARGIN * max(right - left, bottom - top)
        # Large things are averaged down first, so that no pixels are skipped.
        shrink = max(1, round(side / CROP / 1.5))
        both = torch.cat([image, mask[None]])[None]
        if shrink > 1:
            both = F.avg_pool2d(both, shrink, ceil_mode=True, count_include_pad=False)
        ratio = torch.tensor(
            [
                [side / width, 0, (left + right) / width - 1],
                [0, side / height, (top + bottom) / height - 1],
            ],
            dtype=torch.float32,
        )
        grid = F.affine_grid(ratio[None], [1, 4, CROP, CROP], align_corners=False)
        crop = F.grid_sample(both, grid, padding_mode="border", align_corners=False)
        inside = F.grid_sample(torch.ones_like(both[:, :1]), grid, align_corners=False)
        crops.append(on_grey(crop[:, :3], crop[:, 3:] * inside))
    return torch.cat(crops) if crops else image.new_zeros(0, 4, CROP, CROP)
