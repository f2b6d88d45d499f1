"""Text to image with diffusers' arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from smalti.common.checks import check_choice
from smalti.common.images import to_images
from smalti.errors import SmaltiError, renamed
from smalti.generation.drawing import start
from smalti.generation.settings import GenerationSettings
from smalti.integrations.diffusers.base import SmaltiBase, check_negative
from smalti.integrations.diffusers.output import OUTPUT_TYPES, SmaltiPipelineOutput, convert
from smalti.integrations.diffusers.running import Callback, check_callback, run


class SmaltiPipeline(SmaltiBase):
    """A diffusers pipeline that draws images from prompts. It gives the tokens of `smalti.Pipeline`.

    Example:
        >>> pipe = SmaltiPipeline.from_pretrained("scenes")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> generator = torch.Generator().manual_seed(0)
        >>> pipe("a red circle", num_inference_steps=4, guidance_scale=2.0, generator=generator).images[0].size
        (256, 256)
    """

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        preset: str | None = None,
        settings: GenerationSettings | None = None,
    ) -> SmaltiPipelineOutput | tuple[Any]:
        """Draw images from prompts.

        Args:
            prompt: one prompt or a list.
            negative_prompt: what the images should not show; it needs guidance.
            height, width: size in pixels; None is the model's own.
            num_inference_steps: number of steps; None is the model's own.
            guidance_scale: g in unconditional + g · (conditional − unconditional); 0 to 1 is no
                guidance. None is the model's own. Smalti's own setting is g − 1.
            num_images_per_prompt: number of images of each prompt.
            generator: one generator, or a list with one an image.
            latents: (B, h, w) int64, tokens to start from, the mask id where unknown; None is all masks.
            output_type: "pil", "np", "pt" or "latent", which are the tokens.
            return_dict: False returns a tuple with the images alone.
            callback_on_step_end: called after every step with the pipeline, the step's index, the share of tokens that
                are still unknown, and a dictionary of tensors. The "latents" that it returns replace the loop's. It may
                set `pipe._interrupt` to skip the rest of the steps.
            callback_on_step_end_tensor_inputs: tensors that it gets: "latents", "candidates" and "revealed".
            preset: "fast", "balanced" or "quality" in place of the model's own settings.
            settings: all other settings of Smalti.

        Raises:
            SmaltiError: an argument that is wrong, by name.
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        inputs = check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        chosen = self._settings(preset, settings, guidance_scale, num_inference_steps, (height, width))
        check_negative(negative_prompt, chosen)
        with self._at_work(self.denoiser), renamed(tokens="latents"):
            parts = self.parts
            generation = start(
                parts,
                prompt,
                chosen,
                negative_prompt=negative_prompt,
                num_images_per_prompt=num_images_per_prompt,
                generator=generator,
                tokens=_checked(latents),
            )
            drawn = run(
                self,
                generation,
                mask_code=parts.mask_code,
                callback=callback_on_step_end,
                inputs=inputs,
                pictures=output_type != "latent",
            )
        images: Any = drawn.tokens
        if output_type != "latent":
            with self._at_work(self.image_tokenizer):
                pixels = self.parts.decode(drawn.tokens)
            images = convert(to_images(pixels), output_type)
        return SmaltiPipelineOutput(images, drawn.tokens, drawn.seeds) if return_dict else (images,)


def _checked(latents: Any) -> torch.Tensor | None:
    """Return tokens to start from, or raise SmaltiError if they are no tensor."""
    if latents is not None and not isinstance(latents, torch.Tensor):
        raise SmaltiError(f"latents must be a tensor, not {type(latents).__name__}", argument="latents")
    return latents
