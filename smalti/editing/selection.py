"""How the tokens of an edit are chosen: by what they lose, by a mask, by share, or because the picture grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from smalti.common.checks import check_real, check_whole
from smalti.editing.picture import open_mask
from smalti.editing.regions import losing_tokens, most_losing, random_share, touched_tokens
from smalti.editing.start import Work
from smalti.errors import SmaltiError
from smalti.model.prompt import PromptBatch
from smalti.reading.likelihood import complementary_masks, likelihood_drop, negative_log_likelihood

if TYPE_CHECKING:
    from smalti.pipeline import Pipeline

# Passes of the denoiser with each prompt that choosing takes, at most; and sights that a strength is drawn from.
_PASSES = 5
_SIGHTS = 2


@dataclass(frozen=True)
class Selection:
    """How the tokens to fill again are chosen: by one of mask, grow and strength, or else automatically.

    Attributes:
        source_prompt: what the picture shows; "" for the model's belief without any prompt, None for the prompt that
            the picture was made with, if it is known, else as "".
        mask: where the picture is to change, as for `smalti.editing.picture.open_mask`.
        grow: pixels to add at the left, top, right and bottom.
        strength: the share of tokens to draw at random, least believed first; beside a mask, of those that it touches.
        share: of the tokens, those that lose most belief; None goes by the threshold.
        threshold: of (nearly) the largest loss, above which tokens are chosen; None is 0.3.
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
                    f"grow must be four numbers of pixels: left, top, right, bottom, not {self.grow!r}"
                )
            for edge in self.grow:
                check_whole("grow", edge, 0)
            if not any(self.grow):
                raise SmaltiError("grow must add at least one pixel at the left, top, right or bottom")
            if self.mask is not None or self.strength is not None:
                raise SmaltiError("grow says what to draw: leave out mask and strength")
        for name in ("strength", "share"):
            if getattr(self, name) is not None:
                check_real(name, getattr(self, name), 0, 1, above=True)
        if self.threshold is not None:
            check_real("threshold", self.threshold, 0, 1)
            if self.share is not None:
                raise SmaltiError("share and threshold must not both be given")
        if self.source_prompt is not None and not isinstance(self.source_prompt, str):
            raise SmaltiError(f"source_prompt must be text, not {type(self.source_prompt).__name__}")
        if not self.automatic:
            for name in ("source_prompt", "share", "threshold"):
                if getattr(self, name) is not None:
                    raise SmaltiError(
                        f"{name} is for the automatic choice of tokens: leave it out beside mask, grow and strength"
                    )

    @property
    def automatic(self) -> bool:
        """Whether the tokens are chosen by what they lose."""
        return self.mask is None and self.grow is None and self.strength is None


class Chosen(NamedTuple):
    """Which tokens are filled again.

    Attributes:
        region: (h, w) bool.
        loss: (h, w) float32 in nats, or None if the region was given.
        passes: of the denoiser, each prompt counted.
    """

    region: torch.Tensor
    loss: torch.Tensor | None
    passes: int


def choose(
    pipeline: Pipeline,
    selection: Selection,
    work: Work,
    prompt: PromptBatch,
    reference: PromptBatch,
    *,
    steps: int,
    seed: int | Sequence[int] | None,
) -> Chosen:
    """The tokens that a selection comes to.

    Args:
        prompt, reference: what the picture is to show, and what the choice is measured against; one prompt each.
        steps: of the filling, which choosing must not take longer than.
        seed: as for drawing; what a share at random is drawn with.

    Raises:
        SmaltiError: the mask does not fit; no token loses anything.
    """
    side, block = pipeline.image_tokenizer.config.downscale, block_side(pipeline)
    # As many sights a pass as drawing has pictures in it, with guidance, so that no more memory is needed.
    at_once = 2 if pipeline.mode is None or pipeline.mode.guidance_batched else 1
    region = work.fresh
    if selection.mask is not None:
        region = _masked(selection.mask, work, side)
    if selection.strength is not None:
        sights = complementary_masks(*work.tokens.shape, block, _SIGHTS, torch.Generator().manual_seed(0))
        believed = negative_log_likelihood(pipeline.denoiser, prompt, work.tokens, sights, at_once=at_once)
        draw = torch.Generator().manual_seed(_first_seed(seed))
        region = random_share(believed, selection.strength, draw, within=region, block=block)
        return Chosen(region, None, _SIGHTS)
    if region is not None:
        return Chosen(region, None, 0)
    passes = _passes(steps, work.tokens.numel() // block**2)
    loss = likelihood_drop(pipeline.denoiser, prompt, reference, work.tokens, passes=passes, at_once=at_once)
    if selection.share is not None:
        region = most_losing(loss, selection.share, block=block)
    elif selection.threshold is not None:
        region = losing_tokens(loss, threshold=selection.threshold, block=block)
    else:
        region = losing_tokens(loss, block=block)
    return Chosen(region, loss, 2 * passes)


def block_side(pipeline: Pipeline) -> int:
    """Side in tokens of what the denoiser sees as one."""
    return 2 if pipeline.denoiser.config.downsample else 1


def _masked(mask: Any, work: Work, side: int) -> torch.Tensor:
    """The tokens that a mask asks for."""
    values = open_mask(mask, work.canvas.size, tuple(work.tokens.shape))
    if values.shape != work.canvas.size:
        return torch.from_numpy(values.copy())
    return touched_tokens(work.canvas.lay_mask(values), side)


def _passes(steps: int, blocks: int) -> int:
    """Passes with each prompt: few, so that the choice takes no longer than the filling, and not 2."""
    count = min(_PASSES, steps // 2, 1 + blocks)
    return count if count >= 3 else 1


def _first_seed(seed: int | Sequence[int] | None) -> int:
    """What a share at random is drawn with; where every run has a new seed, it is always the same."""
    first = seed[0] if isinstance(seed, list | tuple) and seed else seed
    return first if isinstance(first, int) and not isinstance(first, bool) and 0 <= first < 2**63 else 0
