"""Which images of an adapter's training keep the frozen model's predictions, and their part of the loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from smalti.common.checks import quoted
from smalti.data.order import Place
from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.model.words import caption_words
from smalti.objective.keeping import frozen_hidden, keeping_loss
from smalti.training.config import DenoiserRunConfig
from smalti.training.task import BatchLoss

_IMAGES_COUNTED = 1024  # of a set, for the share of images that are kept


class Keeping:
    """Images whose caption has none of the new words, or is dropped, stay as the frozen model would draw them.

    Args:
        parts: the sets of training images.
        words: what is new, single words in lower case.
        weight: weight of the loss of images that are kept.
        edit_loss_weight: further factor of their visible positions.

    Raises:
        SmaltiError: no caption has one of the words.
    """

    def __init__(
        self, parts: Sequence[TokenShards], words: Sequence[str], weight: float, edit_loss_weight: float
    ) -> None:
        self._parts, self._words = parts, frozenset(words)
        self._weight, self._edit_loss_weight = weight, edit_loss_weight
        check_words(words, (caption for shards in parts for caption in shards.all_captions()))

    @classmethod
    def of(cls, config: DenoiserRunConfig, parts: Sequence[TokenShards]) -> Keeping | None:
        """Return what a configuration asks for, or None if every image is learned."""
        if config.adapter is None or not config.adapter.new_words:
            return None
        adapter = config.adapter
        return cls(parts, adapter.new_words, adapter.keep_weight, config.objective.edit_loss_weight)

    def select(self, places: Sequence[Place]) -> torch.Tensor:
        """Return (B,) bool, True where no caption of a training image has a new word."""
        texts = (self._parts[part].captions_of(row) for part, row in places)
        return torch.tensor([self._words.isdisjoint(caption_words(captions)) for captions in texts])

    def share(self, second: float, dropped: float) -> float:
        """Return the expected share of the shown images that are kept, from some images of each set.

        Args:
            second: share of the second set, 0 without one.
            dropped: share of the prompts that are dropped.
        """
        learned = 0.0
        for part, (shards, weight) in enumerate(zip(self._parts, (1 - second, second), strict=False)):
            rows = range(0, len(shards), -(-len(shards) // _IMAGES_COUNTED))
            learned += weight * float((~self.select([Place(part, row) for row in rows])).float().mean())
        return 1 - learned * (1 - dropped)

    def before(
        self, denoiser: Denoiser, tokens: torch.Tensor, prompt: PromptBatch, kept: torch.Tensor
    ) -> torch.Tensor:
        """Return the frozen model's hidden vectors for the images that are kept; for the first image if none is.

        Args:
            denoiser: the model with its adapter.
            tokens: (B, h, w) int64, its input.
            prompt: B prompts.
            kept: (B,) bool.
        """
        return frozen_hidden(denoiser, tokens, prompt, _images(kept))

    def add(
        self,
        loss: BatchLoss,
        before: torch.Tensor,
        hidden: torch.Tensor,
        denoiser: Denoiser,
        masked: torch.Tensor,
        kept: torch.Tensor,
        factors: torch.Tensor | None = None,
    ) -> BatchLoss:
        """Return the loss of a batch with the part of the images that are kept, whose weight in it is 0.

        Args:
            loss: loss of the other images.
            before: what the method `before` returned.
            hidden: (B, n, D) hidden vectors of the adapted model.
            denoiser: the model with its adapter.
            masked: (B, h, w) bool.
            kept: (B,) bool.
            factors: (B, h, w) float, factors of the loss, such as those of mask images, or None for 1.
        """
        images = _images(kept)
        weights = torch.where(masked[images], 1.0, self._edit_loss_weight) * kept[images, None, None]
        if factors is not None:
            weights = weights * factors[images]
        head = denoiser.gen_predictor
        found = keeping_loss(before, hidden[images], head, masked[images], self._weight * weights)
        return BatchLoss(
            loss.weighted_sum + found.weighted_sum,
            loss.weight + found.weight,
            {**loss.numbers, "divergence": found.divergence},
        )


def check_words(words: Sequence[str], captions: Iterable[str]) -> None:
    """Raise SmaltiError if no caption has one of the words."""
    missing = frozenset(words).difference(caption_words(captions))
    for word in words:
        if word in missing:
            raise SmaltiError(f"adapter.new_words must be words of the captions, and none has {quoted(word)}")


def _images(kept: torch.Tensor) -> torch.Tensor:
    """Return the numbers of the images that are kept. Processes of a sharded model need at least one."""
    images = kept.nonzero()[:, 0]
    return images if len(images) else images.new_zeros(1)
