"""The suite `tokenizer`: the fidelity of the round trip through an image tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch

from smalti.common.checks import check_choice
from smalti.data.sources import Source
from smalti.evaluation.lattice import lattice_places
from smalti.evaluation.request import Request
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import Suite
from smalti.vq.fidelity import psnr, ssim, summarize_fidelity
from smalti.worlds.arguments import sides
from smalti.worlds.objects.world import Objects
from smalti.worlds.scenes.world import Scenes

WORLDS = ("scenes", "objects")
"""Worlds whose scenes can be measured."""


class RoundTrip(NamedTuple):
    """The round trip of one image.

    Attributes:
        psnr: PSNR in dB, float32.
        ssim: structural similarity, float32.
        tokens: tokens of the image, (h, w) int64.
        codebook_size: number of codes in the codebook.
    """

    psnr: torch.Tensor
    ssim: torch.Tensor
    tokens: torch.Tensor
    codebook_size: int


@dataclass(frozen=True)
class Tokenizer(Suite):
    """Measure the round trip of unseen scenes through an image tokenizer, and its use of codes.

    "psnr" is the mean PSNR of the images in dB; "psnr_pooled" is the PSNR of the mean squared error over all images.
    "ssim" is the mean structural similarity. "codes_used" is the fraction of the codebook that the images use.
    "perplexity" is the exponential of the entropy of the code distribution. MODEL may be the folder of an image
    tokenizer alone.

    Attributes:
        size: side of the images in pixels.
        lattice: number of positions a side at which boxes are placed; 0 means any position.
        world: world of the scenes: scenes (flat shapes) or objects (sprites of real things).
        archive: archive of sprites, or its folder, for objects.
    """

    size: int = 256
    lattice: int = 0
    world: str = "scenes"
    archive: str = "objects"
    needs: ClassVar[str] = "image_tokenizer"
    controls: ClassVar[frozenset[str]] = frozenset()
    count: ClassVar[int] = 256

    def __post_init__(self) -> None:
        sides(self.size)
        check_choice("world", self.world, WORLDS)
        lattice_places(self.lattice)

    @property
    def model(self) -> str | None:  # type: ignore[override]  # an option decides it
        """Return the bundled model of the world."""
        return self.world

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
                after = tokenizer.to_pixels(tokens).cpu()
            found = zip(psnr(images, after), ssim(images, after), tokens.cpu(), strict=True)
            for decibels, similarity, grid in found:
                yield RoundTrip(decibels, similarity, grid, tokenizer.config.codebook_size)

    def score(self, prompt: torch.Tensor, sample: RoundTrip) -> RoundTrip:
        """Return the round trip itself."""
        return sample

    def summarize(self, rows: Sequence[RoundTrip]) -> dict[str, Any]:
        """Return the PSNR, the SSIM, the use of codes, and the size of the codebook."""
        size = rows[0].codebook_size
        tokens = torch.cat([row.tokens.flatten() for row in rows])
        fidelity = summarize_fidelity(
            torch.stack([row.psnr for row in rows]), torch.bincount(tokens, minlength=size)
        )
        similarity = round(float(torch.stack([row.ssim for row in rows]).mean()), 4)
        return {**fidelity, "ssim": similarity, "codebook_size": size}

    def _world(self, seed: int) -> Source:
        """Return the unseen scenes of a seed."""
        lattice = lattice_places(self.lattice)
        if self.world == "objects":
            return Objects(self.archive, seed=seed, size=self.size, split="test", lattice=lattice)
        return Scenes(seed=seed, size=self.size, split="test", lattice=lattice)
