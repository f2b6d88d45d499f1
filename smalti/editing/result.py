"""The result of an edit, which may be edited again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from PIL import Image

from smalti.common.checks import check_whole
from smalti.editing.blending import draw_map
from smalti.editing.canvas import Canvas
from smalti.editing.embedded import EmbeddedTokens
from smalti.editing.picture import Picture
from smalti.errors import SmaltiError
from smalti.generation.settings import GenerationSettings


@dataclass(frozen=True, eq=False)
class EditResult:
    """Edited images, their tokens, and what made them. `image` of a further edit may be such a result.

    Attributes:
        images: an image for each seed, as large as the source image after growing.
        tokens: (B, h, w) int64 on the CPU; outside the region they equal `tokens_before`.
        tokens_before: tokens of the source image, (h, w) int64 on the CPU.
        region: tokens that were filled again, (h, w) bool.
        loss: drop of each token's log-likelihood in nats, (h, w) float32; None unless the selection was automatic.
        prompt: prompt of the edit.
        source_prompt: prompt that the drop was measured against; None if there was none.
        negative_prompt: prompt of the unconditional pass; None if it was empty.
        seeds: seed of each image.
        settings: every setting, defaults included.
        seconds: seconds of "encode", "choose", "prompt", "denoise" and "decode" (with blending), and their sum,
            "total".
        passes: number of passes of the denoiser for the selection, over both prompts.
        canvas: place of the images on the model's canvas.
        picture: source image, after growing.
        codebook: name of the tokens' codebook.
    """

    images: list[Image.Image]
    tokens: torch.Tensor
    tokens_before: torch.Tensor
    region: torch.Tensor
    loss: torch.Tensor | None
    prompt: str
    source_prompt: str | None
    negative_prompt: str | None
    seeds: list[int]
    settings: GenerationSettings
    seconds: dict[str, float]
    passes: int
    canvas: Canvas
    picture: Picture
    codebook: str

    @property
    def image(self) -> Image.Image:
        """The first image."""
        return self.images[0]

    def only(self, index: int) -> EditResult:
        """Return a result with image number `index` alone.

        Raises:
            SmaltiError: there is no such image.
        """
        index = check_whole("index", index, 0)
        if index >= len(self.images):
            raise SmaltiError(
                f"index must be below {len(self.images)}, the number of images, not {index}", argument="index"
            )
        part = slice(index, index + 1)
        return replace(self, images=self.images[part], tokens=self.tokens[part], seeds=self.seeds[part])

    def map(self) -> Image.Image:
        """Return the source image with the selected tokens tinted and framed."""
        side = self.canvas.canvas[0] // self.region.shape[0]
        return draw_map(self.picture.shown, self.canvas, self.region.numpy(), side)

    def embedded(self, index: int = 0) -> EmbeddedTokens:
        """Return the tokens of image number `index`, to be embedded in its file."""
        return EmbeddedTokens(self.tokens[index], self.canvas, self.codebook)
