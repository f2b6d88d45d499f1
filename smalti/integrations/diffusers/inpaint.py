"""Inpainting with diffusers' arguments."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from smalti.common.checks import check_choice, check_real
from smalti.common.images import to_pil
from smalti.editing.edit import PreparedEdit, prepare_edit
from smalti.editing.selection import Selection
from smalti.errors import SmaltiError, renamed
from smalti.generation.drawing import Generation, start
from smalti.generation.seeds import image_seeds
from smalti.generation.settings import GenerationSettings
from smalti.integrations.diffusers.base import SmaltiBase, check_negative
from smalti.integrations.diffusers.output import OUTPUT_TYPES, SmaltiPipelineOutput, convert
from smalti.integrations.diffusers.running import Callback, check_callback, run


class SmaltiInpaintPipeline(SmaltiBase):
    """A diffusers pipeline that fills a part of an image again. It gives the tokens of `smalti.Pipeline.edit`.

    Example:
        >>> from PIL import Image
        >>> pipe = SmaltiInpaintPipeline.from_pretrained("scenes")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> image = Image.new("RGB", (256, 256), "white")
        >>> mask = Image.new("L", (256, 256))
        >>> mask.paste(255, (0, 0, 128, 256))
        >>> pipe("a red circle", image=image, mask_image=mask, num_inference_steps=4).images[0].size
        (256, 256)
    """

    def __call__(
        self,
        prompt: str,
        *,
        image: Any,
        mask_image: Any,
        strength: float = 1.0,
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        preset: str | None = None,
        settings: GenerationSettings | None = None,
    ) -> SmaltiPipelineOutput | tuple[Any]:
        """Fill the white part of a mask again. Pixels outside the tokens that it touches fade over two tokens.

        Args:
            prompt: the whole image as it should be.
            image: PIL image, array, or tensor (3, H, W) or (1, 3, H, W) from 0 to 1.
            mask_image: the same of one channel, or in grey; white is filled again.
            strength: share of the tokens under the mask that are filled again, above 0 and at most 1; with less than 1
                those that fit the prompt least are the likeliest.
            negative_prompt, num_inference_steps, guidance_scale: as for `SmaltiPipeline`.
            num_images_per_prompt, generator, output_type, return_dict: as for `SmaltiPipeline`.
            callback_on_step_end, callback_on_step_end_tensor_inputs: as for `SmaltiPipeline`.
            preset, settings: as for `SmaltiPipeline`.
            height, width: size in pixels that the image is fitted to; None is the model's own. Results have the size of
                `image`.

        Raises:
            SmaltiError: an argument that is wrong, by name.
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        inputs = check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        share = check_real("strength", strength, 0, 1, above=True)
        chosen = self._settings(preset, settings, guidance_scale, num_inference_steps, (height, width))
        seeds = image_seeds(None, generator, 1, num_images_per_prompt)
        check_negative(negative_prompt, chosen)
        selection = Selection(mask=_image("mask_image", mask_image), strength=None if share == 1 else share)
        with ExitStack() as stack:
            stack.enter_context(self._at_work(self.image_tokenizer))
            stack.enter_context(self._at_work(self.denoiser))
            stack.enter_context(renamed(mask="mask_image"))
            edit = prepare_edit(
                self.parts,
                _image("image", image),
                prompt,
                selection,
                chosen,
                size=None if height is None and width is None else chosen.size,
                seed=seeds,
            )
        with self._at_work(self.denoiser):
            generation = self._start(edit, negative_prompt, num_images_per_prompt, seeds)
            drawn = run(
                self,
                generation,
                mask_code=self.parts.mask_code,
                callback=callback_on_step_end,
                inputs=inputs,
                pictures=output_type != "latent",
            )
        images: Any = drawn.tokens
        if output_type != "latent":
            with self._at_work(self.image_tokenizer):
                images = convert(edit.images(self.parts, drawn.tokens), output_type)
        return SmaltiPipelineOutput(images, drawn.tokens, drawn.seeds) if return_dict else (images,)

    def _start(
        self, edit: PreparedEdit, negative_prompt: str | None, count: int, seeds: list[int]
    ) -> Generation:
        """Return the generation that fills the region of an edit."""
        parts = self.parts
        return start(
            parts,
            edit.prompt,
            edit.settings,
            negative_prompt=negative_prompt,
            num_images_per_prompt=count,
            seed=seeds,
            tokens=edit.start_tokens(parts).expand(count, -1, -1),
            editable=edit.region.tokens.expand(count, -1, -1),
        )


def _image(name: str, given: Any) -> Any:
    """Return an image as Smalti's editing takes it: tensors and arrays of floats become PIL images.

    Raises:
        SmaltiError: nothing, several images, or a tensor or an array of another shape.
    """
    if isinstance(given, list | tuple) and len(given) == 1:
        given = given[0]
    if given is None or isinstance(given, list | tuple):
        found = "None" if given is None else f"{len(given)} of them"
        raise SmaltiError(
            f"{name} must be one image, its file or the file's name, not {found}", argument=name
        )
    values = given
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        values = torch.from_numpy(given.astype(np.float32))
        values = values.movedim(-1, -3) if values.ndim > 2 else values
    if not isinstance(values, torch.Tensor):
        return given
    values = values.float() if values.dtype == torch.bool else values
    values = values[0] if values.ndim == 4 and len(values) == 1 else values
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or len(values) not in (1, 3) or not values.is_floating_point():
        raise SmaltiError(
            f"{name} must be (1 or 3, H, W) floats from 0 to 1, or (H, W, 1 or 3) as an array, "
            f"not {tuple(given.shape)} {given.dtype}",
            argument=name,
        )
    if not bool(values.isfinite().all()):
        raise SmaltiError(f"{name} must hold finite numbers, not NaN or infinity", argument=name)
    pixels = (values.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().permute(1, 2, 0)
    return to_pil(pixels.expand(-1, -1, 3).contiguous().numpy())
