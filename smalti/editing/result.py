"""What comes out of an edit, which may be edited again."""

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
from smalti.settings import GenerationSettings


@dataclass(frozen=True, eq=False)
class EditResult:
    """Edited pictures and how they came about; may take the place of a picture in the next edit.

    Attributes:
        images: one a seed, as large as the picture that was edited.
        tokens: (B, h, w) int64 on the CPU; outside of the region they are those before.
        tokens_before: (h, w) int64 on the CPU.
        region: (h, w) bool, the tokens that were filled again.
        loss: (h, w) float32, what every token lost, in nats; None if the region was given.
        prompt: what was asked for.
        source_prompt: what the loss was measured against; None is no prompt, or a region that was given.
        seeds: of each picture.
        settings: every setting, defaults included.
        seconds: "encode", "choose", "prompt", "denoise", "decode" (with blending) and their sum, "total".
        passes: of the denoiser for the choice, each prompt counted.
        canvas: where the pictures lie on the model's canvas.
        picture: that was edited, of the result's size.
        codebook: which codebook the tokens are of.
    """

    images: list[Image.Image]
    tokens: torch.Tensor
    tokens_before: torch.Tensor
    region: torch.Tensor
    loss: torch.Tensor | None
    prompt: str
    source_prompt: str | None
    seeds: list[int]
    settings: GenerationSettings
    seconds: dict[str, float]
    passes: int
    canvas: Canvas
    picture: Picture
    codebook: str

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]

    def only(self, index: int) -> EditResult:
        """The result with one of its pictures alone.

        Raises:
            SmaltiError: there is no such picture.
        """
        check_whole("index", index, 0)
        if index >= len(self.images):
            raise SmaltiError(f"index must be below {len(self.images)}, the number of pictures, not {index}")
        part = slice(index, index + 1)
        return replace(self, images=self.images[part], tokens=self.tokens[part], seeds=self.seeds[part])

    def map(self) -> Image.Image:
        """The picture before the edit, with the chosen tokens drawn over it."""
        side = self.canvas.canvas[0] // self.region.shape[0]
        return draw_map(self.picture.shown, self.canvas, self.region.numpy(), side)

    def kept(self, index: int = 0) -> KeptTokens:
        """The tokens of a picture, to be kept with it."""
        return KeptTokens(self.tokens[index], self.canvas, self.codebook)
