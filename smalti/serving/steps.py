"""What is wanted of the steps of a batch, and what is seen of them: plain values, which may travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from smalti.common.images import to_images
from smalti.components import Components
from smalti.sampling.view import Step
from smalti.serving.previews import CodeColors, Preview


@dataclass(frozen=True)
class Orders:
    """What is wanted of a batch from its next step on, by the place of an image in it.

    Attributes:
        dropped: images that are not wanted any more.
        previews: images of which a preview is due.
        pictures: steps, from 0, after which an image is decoded as it is.
    """

    dropped: frozenset[int] = frozenset()
    previews: frozenset[int] = frozenset()
    pictures: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def need_candidates(self, step: int) -> bool:
        """Return whether a step, from 0, must know the candidates at every masked position.

        Example:
            >>> Orders(pictures={0: (3, 7)}).need_candidates(7)
            True
        """
        return bool(self.previews) or any(step in steps for steps in self.pictures.values())


@dataclass(frozen=True, eq=False)
class Seen:
    """What a batch showed of one step.

    Attributes:
        step: index of the step, from 0.
        steps: number of steps.
        counts: numbers of tokens revealed, edited, remasked and unknown, and of all tokens, of each image.
        previews: colours by image.
        pictures: decoded images with their candidates, at the size of the canvas, by image.
    """

    step: int
    steps: int
    counts: Sequence[dict[str, int]]
    previews: Mapping[int, Preview]
    pictures: Mapping[int, Image.Image]


def look(components: Components, colors: CodeColors, step: Step, orders: Orders) -> Seen:
    """Return what is wanted of a step; its candidates must be known where `orders` need them."""
    return Seen(
        step=step.index,
        steps=step.steps,
        counts=_counts(components, step),
        previews={image: _preview(components, colors, step, image) for image in orders.previews},
        pictures={
            image: _picture(components, step, image)
            for image, steps in orders.pictures.items()
            if step.index in steps
        },
    )


def _counts(components: Components, step: Step) -> list[dict[str, int]]:
    """Count the tokens of all images at once: a few sums, which cost next to nothing."""
    unknown = step.tokens == components.mask_code
    numbers = {
        name: grid.sum(dim=(1, 2)).tolist()
        for name, grid in (
            ("revealed", step.revealed),
            ("edited", step.edited),
            ("remasked", step.remasked),
            ("unknown", unknown),
        )
    }
    tokens = unknown[0].numel()
    return [
        {**{name: counts[image] for name, counts in numbers.items()}, "tokens": tokens}
        for image in range(len(unknown))
    ]


def _preview(components: Components, colors: CodeColors, step: Step, image: int) -> Preview:
    tokens, known = _filled(components, step, image)
    return Preview(colors.of(tokens), known.cpu().numpy(), step.edited[image].cpu().numpy())


def _picture(components: Components, step: Step, image: int) -> Image.Image:
    tokens, _ = _filled(components, step, image)
    return to_images(components.decode(tokens[None]))[0]


def _filled(components: Components, step: Step, image: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens (h, w) with candidates at masked positions, and which of them are known."""
    tokens = step.tokens[image]
    unknown = tokens == components.mask_code
    return torch.where(unknown, step.candidate[image], tokens), ~unknown
