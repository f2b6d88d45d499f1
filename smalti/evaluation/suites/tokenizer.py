"""The suite `tokenizer`: the fidelity of the round trip through an image tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch

from smalti.common.checks import check_whole
from smalti.evaluation.request import Request
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import Suite
from smalti.evaluation.suites.scenes.lattice import lattice_places
from smalti.vq.fidelity import psnr, summarize_fidelity
from smalti.worlds.scenes import world


class RoundTrip(NamedTuple):
    """The round trip of one image.

    Attributes:
        psnr: PSNR in dB, float32.
        tokens: tokens of the image, (h, w) int64.
        codebook_size: number of codes in the codebook.
    """

    psnr: torch.Tensor
    tokens: torch.Tensor
    codebook_size: int


@dataclass(frozen=True)
class Tokenizer(Suite):
    """Measure the round trip of unseen scenes through an image tokenizer, and its use of codes.

    "psnr" is the mean PSNR of the images in dB; "psnr_pooled" is the PSNR of the mean squared error over all images.
    "codes_used" is the fraction of the codebook that the images use. "perplexity" is the exponential of the entropy of
    the code distribution. MODEL may be the folder of an image tokenizer alone.

    Attributes:
        size: side of the images in pixels.
        lattice: number of positions a side at which boxes are placed; 0 means any position.
    """

    size: int = 256
    lattice: int = 0
    needs: ClassVar[str] = "image_tokenizer"
    controls: ClassVar[frozenset[str]] = frozenset()
    count: ClassVar[int] = 256

    def __post_init__(self) -> None:
        self._world(0)

    def prompts(self, count: int, seed: int) -> list[torch.Tensor]:
        """Return unseen scenes, (3, size, size) uint8 each."""
        unseen = self._world(seed)
        return [unseen[index]["image"] for index in range(count)]

    def make(
        self, subject: Subject, prompts: Sequence[torch.Tensor], request: Request
    ) -> Iterator[RoundTrip]:
        """Yield the round trip of each scene."""
        tokenizer = subject.image_tokenizer
        for first in range(0, len(prompts), request.batch_size):
            images = torch.stack(list(prompts[first : first + request.batch_size]))
            with torch.no_grad():
                tokens = tokenizer.from_pixels(images.to(tokenizer.device))
                values = psnr(images, tokenizer.to_pixels(tokens).cpu())
            for value, grid in zip(values, tokens.cpu(), strict=True):
                yield RoundTrip(value, grid, tokenizer.config.codebook_size)

    def score(self, prompt: torch.Tensor, sample: RoundTrip) -> RoundTrip:
        """Return the round trip itself."""
        return sample

    def summarize(self, rows: Sequence[RoundTrip]) -> dict[str, Any]:
        """Return the PSNR, the use of codes, and the size of the codebook."""
        size = rows[0].codebook_size
        tokens = torch.cat([row.tokens.flatten() for row in rows])
        fidelity = summarize_fidelity(
            torch.stack([row.psnr for row in rows]), torch.bincount(tokens, minlength=size)
        )
        return {**fidelity, "codebook_size": size}

    def _world(self, seed: int) -> world.Scenes:
        """Return the unseen scenes of a seed."""
        check_whole("size", self.size)
        return world.Scenes(seed=seed, size=self.size, split="test", lattice=lattice_places(self.lattice))
