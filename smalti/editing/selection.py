"""Selection of the tokens of an edit: by the drop of their likelihood, by a mask, at random, or beyond the edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from smalti.common.checks import check_real, check_seed, check_whole, quoted
from smalti.common.randomness import generator
from smalti.components import Components
from smalti.editing.picture import LARGEST_PIXELS, open_mask
from smalti.editing.regions import losing_tokens, most_losing, random_share, touched_tokens
from smalti.editing.source import WorkingImage
from smalti.errors import SmaltiError
from smalti.model.prompt import PromptBatch
from smalti.reading.likelihood import complementary_masks, likelihood_drop, negative_log_likelihood

# Largest number of passes with each prompt for an automatic selection; number of complementary masks for a strength.
_PASSES = 5
_MASKS = 2


@dataclass(frozen=True)
class Selection:
    """How the tokens to fill again are selected: by mask, grow or strength, else automatically.

    Example:
        >>> Selection(mask="mask.png").automatic
        False

    Attributes:
        source_prompt: text of what the image shows. "" compares with no prompt. None means the prompt that the image
            was made with, if it is known, else "".
        mask: pixels or tokens that are to change, as for `smalti.editing.picture.open_mask`.
        grow: pixels to add at the left, top, right and bottom.
        strength: fraction of the tokens to fill again, drawn at random, preferably the least likely ones; with a mask,
            fraction of the tokens that it touches.
        share: fraction of the tokens to fill again, those whose likelihood drops most; None means by threshold.
        threshold: fraction of (nearly) the largest drop above which tokens are selected; None means 0.3.

    Raises:
        SmaltiError: a value is out of range, or two exclude each other.
    """

    source_prompt: str | None = None
    mask: Any = None
    grow: tuple[int, int, int, int] | None = None
    strength: float | None = None
    share: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.grow is not None:
            if not isinstance(self.grow, tuple | list) or len(self.grow) != 4:
                raise SmaltiError(
                    f"grow must be four numbers of pixels (left, top, right, bottom), not {quoted(self.grow)}",
                    argument="grow",
                )
            edges = tuple(check_whole("grow", edge, 0, LARGEST_PIXELS) for edge in self.grow)
            object.__setattr__(self, "grow", edges)
            if not any(self.grow):
                raise SmaltiError(
                    "grow must add at least one pixel at the left, top, right or bottom", argument="grow"
                )
            if self.mask is not None or self.strength is not None:
                raise SmaltiError("grow excludes mask and strength: leave them out", argument="grow")
        for name in ("strength", "share"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_real(name, getattr(self, name), 0, 1, above=True))
        if self.threshold is not None:
            object.__setattr__(self, "threshold", check_real("threshold", self.threshold, 0, 1))
            if self.share is not None:
                raise SmaltiError("share and threshold must not both be given", argument="share")
        if self.source_prompt is not None and not isinstance(self.source_prompt, str):
            raise SmaltiError(
                f"source_prompt must be text, not {type(self.source_prompt).__name__}",
                argument="source_prompt",
            )
        if not self.automatic:
            for name in ("source_prompt", "share", "threshold"):
                if getattr(self, name) is not None:
                    raise SmaltiError(
                        f"{name} is for the automatic selection of tokens: leave it out with mask, grow or strength",
                        argument=name,
                    )

    @property
    def automatic(self) -> bool:
        """Whether the tokens are selected by the drop of their likelihood."""
        return self.mask is None and self.grow is None and self.strength is None


class Region(NamedTuple):
    """The tokens to fill again.

    Attributes:
        tokens: selected tokens, (h, w) bool.
        loss: drop of each token's log-likelihood in nats, (h, w) float32; None unless the selection was automatic.
        passes: number of passes of the denoiser over both prompts.
    """

    tokens: torch.Tensor
    loss: torch.Tensor | None
    passes: int


def choose(
    components: Components,
    selection: Selection,
    work: WorkingImage,
    prompt: PromptBatch,
    reference: PromptBatch,
    *,
    steps: int,
    seed: int | Sequence[int] | None,
) -> Region:
    """Select tokens of an image.

    Args:
        components: the model.
        selection: rule of the selection.
        work: image, with its tokens.
        prompt: one prompt, of what the image is to show.
        reference: one prompt, of what the image shows, or none.
        steps: number of steps of the filling. An automatic selection takes no more passes.
        seed: seed or seeds of the edit, as for `smalti.generation.drawing.start`; a strength draws tokens with the
            first.

    Raises:
        SmaltiError: the mask does not fit.
        NothingChosen: the likelihood of no token drops.
    """
    side, block = components.image_tokenizer.config.downscale, components.denoiser.config.cell
    # A pass has as many masks as a guided pass of sampling has images, so that it needs no more memory.
    at_once = 2 if components.guidance_batched else 1
    region = work.fresh
    if selection.mask is not None:
        region = masked_tokens(selection.mask, work, side)
    if selection.strength is not None:
        height, width = work.tokens.shape
        masks = complementary_masks(height, width, block, _MASKS, torch.Generator().manual_seed(0))
        nll = negative_log_likelihood(components.denoiser, prompt, work.tokens, masks, at_once=at_once)
        draw = generator(_first_seed(seed))
        region = random_share(nll, selection.strength, draw, within=region, block=block)
        return Region(region, None, _MASKS)
    if region is not None:
        return Region(region, None, 0)
    passes = _passes(steps, work.tokens.numel() // block**2)
    loss = likelihood_drop(
        components.denoiser, prompt, reference, work.tokens, passes=passes, at_once=at_once
    )
    if selection.share is not None:
        region = most_losing(loss, selection.share, block=block)
    elif selection.threshold is not None:
        region = losing_tokens(loss, threshold=selection.threshold, block=block)
    else:
        region = losing_tokens(loss, block=block)
    return Region(region, loss, 2 * passes)


def masked_tokens(mask: Any, work: WorkingImage, side: int) -> torch.Tensor:
    """Return the tokens that a mask touches, (h, w) bool."""
    height, width = work.tokens.shape
    values = open_mask(mask, work.canvas.size, (height, width))
    if values.shape != work.canvas.size:
        return torch.from_numpy(values.copy())
    return touched_tokens(work.canvas.put_mask(values), side)


def _passes(steps: int, blocks: int) -> int:
    """Return the number of passes with each prompt: no more than the filling takes over both, and never 2."""
    count = min(_PASSES, steps // 2, 1 + blocks)
    return count if count >= 3 else 1


def _first_seed(seed: int | Sequence[int] | None) -> int:
    """Return the seed that a strength draws tokens with: the first one, or 0 if none was given."""
    first = seed[0] if isinstance(seed, list | tuple) and seed else seed
    return 0 if first is None else check_seed(first)
