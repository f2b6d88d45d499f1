"""The loop of the nodes: a progress bar that is also the interrupt, and a preview now and then."""

from __future__ import annotations

import time

import comfy.model_management as management
import numpy as np
import torch
from comfy.utils import ProgressBar
from PIL import Image

from smalti.common.images import paint_unknown, to_pil
from smalti.components import Components
from smalti.generation.drawing import Generation
from smalti.sampling.view import Step

# Least seconds between two previews, and how many times the seconds of a preview pass before the next one.
_PAUSE, _RATIO = 0.25, 4
_PREVIEW_SIDE = 512


class Progress:
    """The progress of one node: a bar over all steps of its generations.

    Attributes:
        preview: whether the image in progress is shown.
    """

    def __init__(self, generations: int, steps: int, preview: bool) -> None:
        self.preview = preview
        self._bar, self._total, self._steps = ProgressBar(generations * steps), generations * steps, steps
        self._done = 0
        self._next = 0.0

    def follow(self, components: Components, generation: Generation) -> None:
        """Take the steps of a generation, which was started with `self.preview`.

        An interrupt ends it after the step that is being computed.

        Raises:
            InterruptProcessingException: ComfyUI's own, when the user stops the run.
        """
        management.throw_exception_if_processing_interrupted()
        for step in generation:
            # The bar looks for interrupts too, but not at every step when steps are fast.
            management.throw_exception_if_processing_interrupted()
            shown = None
            if generation.preview:
                started = time.monotonic()
                shown = ("JPEG", preview_image(components, step), _PREVIEW_SIDE)
                now = time.monotonic()
                self._next = now + max(_PAUSE, _RATIO * (now - started))
            self._bar.update_absolute(self._done + step.index + 1, self._total, shown)
            generation.preview = self.preview and time.monotonic() >= self._next
        self._done += self._steps
        self._bar.update_absolute(self._done, self._total)


def preview_image(components: Components, step: Step) -> Image.Image:
    """Return the first image of a step that has candidates; positions that are still unknown are pale tiles."""
    tokens, candidate = step.tokens[:1].cpu(), step.candidate[:1].cpu()
    unknown = tokens == components.mask_code
    pixels = components.decode(torch.where(unknown, candidate, tokens))[0].permute(1, 2, 0).numpy()
    tiles = paint_unknown(pixels, unknown[0].numpy())
    return to_pil(((pixels.astype(np.uint16) + tiles) // 2).astype(np.uint8))
