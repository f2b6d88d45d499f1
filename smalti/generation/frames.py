"""The unmasking as images, one per step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from smalti.common.images import paint_unknown, to_pil
from smalti.components import Components
from smalti.sampling.view import Step


def make_frames(components: Components, steps: Sequence[Step]) -> list[list[Image.Image]]:
    """Return the unmasking of each image of a batch: a blank frame and one per step.

    A decoder needs a token everywhere. Unknown positions are decoded as they will be in the end, then covered with
    blank tiles, so that the edges of what is known already fit what comes later.

    Args:
        steps: all the `Step`s of a generation.
    """
    final, mask = steps[-1].tokens, components.mask_code
    grids = [torch.full_like(final, mask), *(step.tokens for step in steps)]
    result: list[list[Image.Image]] = [[] for _ in final]
    for tokens in grids:
        unknown = tokens == mask
        pixels = components.decode(torch.where(unknown, final, tokens)).permute(0, 2, 3, 1).numpy()
        for frames, image, covered in zip(result, pixels, unknown.cpu().numpy(), strict=True):
            frames.append(to_pil(paint_unknown(image, covered)))
    return result
