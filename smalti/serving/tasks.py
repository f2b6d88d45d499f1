"""What a worker is asked to draw: plain values, which know nothing of HTTP and may travel to another machine."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from PIL import Image

from smalti.editing.edit import PreparedEdit
from smalti.editing.selection import Selection
from smalti.editing.source import SourceImage
from smalti.generation.settings import GenerationSettings


@dataclass(frozen=True, eq=False)
class EditTask:
    """The image of an edit, and how its tokens are selected.

    Attributes:
        source: the image on its canvas.
        selection: rule by which the tokens to fill again are selected.
        keep_pixels, blend: as for `smalti.editing.edit.start_edit`.
    """

    source: SourceImage
    selection: Selection
    keep_pixels: bool = True
    blend: bool = True


@dataclass(frozen=True, eq=False)
class Task:
    """Images of one prompt, one a seed.

    Attributes:
        model: name of the model.
        prompt, negative_prompt: texts; None is no negative prompt.
        settings: every setting; the size is that of the canvas.
        seeds: seed of each image.
        lengths: number of text tokens of the prompt and of the negative prompt, 0 without one.
        edit: the image to edit, or None to draw from nothing.
    """

    model: str
    prompt: str
    negative_prompt: str | None
    settings: GenerationSettings
    seeds: tuple[int, ...]
    lengths: tuple[int, int]
    edit: EditTask | None = None

    @property
    def group(self) -> Hashable:
        """What tasks share that are drawn in one batch. A batch has one composition of settings and one size.

        Prompts of different lengths never pass through the denoiser together, so that a batch of them saves nothing.
        """
        return self.model, self.settings, self.lengths


@dataclass(frozen=True, eq=False)
class Piece:
    """One image of a task.

    Attributes:
        task: the task.
        index: number of the image in the task.
        edit: the prepared edit, for a task that edits.
    """

    task: Task
    index: int
    edit: PreparedEdit | None = None


@dataclass(frozen=True, eq=False)
class Drawn:
    """One image that a worker has drawn.

    Attributes:
        image: the image, of the size of the canvas, or of the edited image.
        tokens: (h, w) int64 on the CPU.
        passes: number of passes of the denoiser.
        edited, remasked: number of tokens that were replaced, and that were masked again.
        edit: the prepared edit, or None.
    """

    image: Image.Image
    tokens: torch.Tensor
    passes: int
    edited: int
    remasked: int
    edit: PreparedEdit | None
