"""Scaffolds: a template fixes some tokens of new images, such as a frame or a horizon, and leaves the others open.

The idea is that of schema scaffolding for text (S³, arXiv 2507.04504), whose structure is fixed tokens around open
slots. An image needs no value for "empty": background fills what the prompt does not name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from smalti.components import Components
from smalti.editing.selection import masked_tokens
from smalti.editing.source import open_source, prepare


@dataclass(frozen=True, eq=False)
class Scaffold:
    """The grid that images start from.

    Attributes:
        tokens: (1, h, w) int64, the template's tokens, the mask id where the model fills.
        editable: (1, h, w) bool, the positions that the model fills.
    """

    tokens: torch.Tensor
    editable: torch.Tensor


def read_scaffold(
    components: Components, image: Any, mask: Any, size: tuple[int, int] | None = None
) -> Scaffold:
    """Return the scaffold of a template.

    Args:
        components: the model.
        image: the template: a file, an image or an array, as for `smalti.editing.edit.start_edit`.
        mask: light where the model draws, dark where the template stays, as for inpainting. A token that it touches is
            open.
        size: (height, width) of the images in pixels; None is the model's own.

    Raises:
        SmaltiError: an argument is wrong, by name.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> open_part = torch.ones(16, 16, dtype=torch.bool)
        >>> open_part[12:] = False
        >>> ground = pipe("a red circle", seed=0)
        >>> scaffold = read_scaffold(pipe.components, ground, open_part)
        >>> images = pipe("a blue star", scaffold=scaffold, seed=1)
        >>> bool((images.tokens[0, 12:] == ground.tokens[0, 12:]).all())
        True
    """
    side = components.denoiser.config.image_size
    source = open_source(components, image, size or (side, side), reuse=False)
    work = prepare(components, source, None)
    editable = masked_tokens(mask, work, components.image_tokenizer.config.downscale)
    return Scaffold(work.tokens.masked_fill(editable, components.mask_code)[None], editable[None])
