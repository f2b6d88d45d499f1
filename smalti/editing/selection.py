"""How the tokens of an edit are chosen: by a drop of their likelihood, a mask, a share, or because the image grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from smalti.common.checks import check_real, check_whole
from smalti.components import Components
from smalti.editing.picture import open_mask
from smalti.editing.regions import losing_tokens, most_losing, random_share, touched_tokens
from smalti.editing.source import WorkingImage
from smalti.errors import SmaltiError
from smalti.model.prompt import PromptBatch
from smalti.reading.likelihood import complementary_masks, likelihood_drop, negative_log_likelihood

# Passes of the denoiser with each prompt that choosing takes, at most; and complementary masks for a strength.
_PASSES = 5
_MASKS = 2


@dataclass(frozen=True)
class Selection:
    """How the tokens to fill again are chosen: by one of mask, grow and strength, or else automatically.

    Example:
        >>> Selection(mask="mask.png").automatic
        False

    Attributes:
        source_prompt: what the image shows. "" compares with no prompt. None takes the prompt that the image was made
            with, if it is known, else "".
        mask: where the image is to change, as for `smalti.editing.picture.open_mask`.
        grow: pixels to add at the left, top, right and bottom.
        strength: share of the tokens to fill again, drawn at random, the least likely first; beside a mask, share of
            the tokens that it touches.
        share: share of the tokens to fill again, those whose likelihood drops most; None goes by the threshold.
        threshold: fraction of (nearly) the largest drop above which tokens are chosen; None is 0.3.

    Raises:
        SmaltiError: a value out of range, or two that exclude each other.
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
                    f"grow must be four numbers of pixels: left, top, right, bottom, not {self.grow!r}",
                    argument="grow",
                )
            for edge in self.grow:
                check_whole("grow", edge, 0)
            if not any(self.grow):
                raise SmaltiError(
                    "grow must add at least one pixel at the left, top, right or bottom", argument="grow"
                )
            if self.mask is not None or self.strength is not None:
                raise SmaltiError("grow excludes mask and strength: leave them out", argument="grow")
        for name in ("strength", "share"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), 0, 1, above=True)
        if self.threshold is not None:
            check_real("threshold", self.threshold, 0, 1)
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
                        f"{name} is for the automatic choice of tokens: leave it out beside mask, grow and strength",
                        argument=name,
                    )

    @property
    def automatic(self) -> bool:
        """Whether the tokens are chosen by the drop of their likelihood."""
        return self.mask is None and self.grow is None and self.strength is None


class Region(NamedTuple):
    """The tokens to fill again.

    Attributes:
        tokens: (h, w) bool.
        loss: (h, w) float32 in nats, or None if the region was given.
        passes: number of passes of the denoiser, each prompt counted.
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
    """Return the tokens that a selection stands for.

    Args:
        prompt, reference: what the image is to show, and what its likelihood is compared with; one prompt each.
        steps: number of steps of the filling; choosing takes no longer.
        seed: as for drawing; a strength draws its tokens with it.

    Raises:
        SmaltiError: the mask does not fit; the likelihood of no token drops.
    """
    side, block = components.image_tokenizer.config.downscale, components.denoiser.config.cell
    # As many masks a pass as drawing has images in it, with guidance, so that no more memory is needed.
    at_once = 2 if components.guidance_batched else 1
    region = work.fresh
    if selection.mask is not None:
        region = _masked(selection.mask, work, side)
    if selection.strength is not None:
        sights = complementary_masks(*work.tokens.shape, block, _MASKS, torch.Generator().manual_seed(0))
        believed = negative_log_likelihood(components.denoiser, prompt, work.tokens, sights, at_once=at_once)
        draw = torch.Generator().manual_seed(_first_seed(seed))
        region = random_share(believed, selection.strength, draw, within=region, block=block)
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


def _masked(mask: Any, work: WorkingImage, side: int) -> torch.Tensor:
    """Return the tokens that a mask touches, (h, w) bool."""
    values = open_mask(mask, work.canvas.size, tuple(work.tokens.shape))
    if values.shape != work.canvas.size:
        return torch.from_numpy(values.copy())
    return touched_tokens(work.canvas.lay_mask(values), side)


def _passes(steps: int, blocks: int) -> int:
    """Passes with each prompt: few, so that the choice takes no longer than the filling, and not 2."""
    count = min(_PASSES, steps // 2, 1 + blocks)
    return count if count >= 3 else 1


def _first_seed(seed: int | Sequence[int] | None) -> int:
    """Return the seed that a strength draws tokens with; where every run has a new seed, it is always the same."""
    first = seed[0] if isinstance(seed, list | tuple) and seed else seed
    return first if isinstance(first, int) and not isinstance(first, bool) and 0 <= first < 2**63 else 0
