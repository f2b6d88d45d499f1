"""What a generation leaves: images and how they came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti.generation.settings import GenerationSettings

OUTPUT_TYPES = ("pil", "np", "pt", "tokens")


@dataclass(frozen=True, eq=False)
class PipelineOutput:
    """Images and how they came about. Lists have an entry per image, all images of the first prompt first.

    Attributes:
        images: what `output_type` asked for. "pil" is a list of images. "np" is (B, H, W, 3) float32 in [0, 1]. "pt" is
            (B, 3, H, W) float32 in [0, 1] on the CPU. "tokens" is the same as `tokens`.
        tokens: (B, h, w) int64 on the CPU.
        prompts: the prompt of each image.
        negative_prompts: the negative prompt of each image, or None.
        seeds: the seed of each image; the seed alone gives the same image again.
        settings: every setting, defaults included.
        seconds: "prompt", "denoise", "decode" and their sum, "total".
        tokens_edited: number of changes, in each image, of a token that was already set.
        tokens_remasked: number of tokens that were masked again.
        passes: number of passes of the denoiser for each image; fewer than `num_inference_steps` only with an adaptive
            budget.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    tokens: torch.Tensor
    prompts: list[str]
    negative_prompts: list[str] | None
    seeds: list[int]
    settings: GenerationSettings
    seconds: dict[str, float]
    tokens_edited: list[int]
    tokens_remasked: list[int]
    passes: list[int]

    def only(self, indices: Sequence[int]) -> PipelineOutput:
        """Return the output with some images alone, in the order of `indices`; times stay those of all.

        Example:
            >>> import smalti
            >>> drawn = smalti.load("scenes")("a red circle", num_images_per_prompt=2, seed=5, num_inference_steps=2)
            >>> drawn.only([1]).seeds
            [6]
        """

        def pick(values: list[Any]) -> list[Any]:
            return [values[index] for index in indices]

        images = pick(self.images) if isinstance(self.images, list) else self.images[list(indices)]
        return replace(
            self,
            images=images,
            tokens=self.tokens[list(indices)],
            prompts=pick(self.prompts),
            negative_prompts=None if self.negative_prompts is None else pick(self.negative_prompts),
            seeds=pick(self.seeds),
            tokens_edited=pick(self.tokens_edited),
            tokens_remasked=pick(self.tokens_remasked),
            passes=pick(self.passes),
        )
