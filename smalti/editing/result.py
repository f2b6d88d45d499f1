"""The result of an edit, which may be edited again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from PIL import Image

from smalti.common.checks import check_whole
from smalti.editing.blending import draw_map
from smalti.editing.canvas import Canvas
from smalti.editing.kept import KeptTokens
from smalti.editing.picture import Picture
from smalti.errors import SmaltiError
from smalti.generation.settings import GenerationSettings


@dataclass(frozen=True, eq=False)
class EditResult:
    """Edited images and how they came about. It may take the place of an image in the next edit.

    Attributes:
        images: one a seed, as large as the image that was edited.
        tokens: (B, h, w) int64 on the CPU; outside of the region they are those before.
        tokens_before: (h, w) int64 on the CPU.
        region: (h, w) bool, the tokens that were filled again.
        loss: (h, w) float32, how much every token's log-likelihood drops, in nats; None if the region was given.
        prompt: the prompt of the edit.
        source_prompt: the prompt that the drop was measured against; None is no prompt, or a region that was given.
        negative_prompt: the prompt of the unconditional pass, or None.
        seeds: the seed of each image.
        settings: every setting, defaults included.
        seconds: "encode", "choose", "prompt", "denoise", "decode" (with blending) and their sum, "total".
        passes: number of passes of the denoiser for the choice, each prompt counted.
        canvas: where the images are on the model's canvas.
        picture: the image that was edited, of the result's size.
        codebook: name of the codebook that the tokens belong to.
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
        """Return the result with one of its images alone.

        Raises:
            SmaltiError: there is no such image.
        """
        check_whole("index", index, 0)
        if index >= len(self.images):
            raise SmaltiError(
                f"index must be below {len(self.images)}, the number of images, not {index}", argument="index"
            )
        part = slice(index, index + 1)
        return replace(self, images=self.images[part], tokens=self.tokens[part], seeds=self.seeds[part])

    def map(self) -> Image.Image:
        """Return the image before the edit, with the chosen tokens drawn over it."""
        side = self.canvas.canvas[0] // self.region.shape[0]
        return draw_map(self.picture.shown, self.canvas, self.region.numpy(), side)

    def kept(self, index: int = 0) -> KeptTokens:
        """Return the tokens of an image, to be embedded in its file."""
        return KeptTokens(self.tokens[index], self.canvas, self.codebook)
