"""Suites whose network is a CLIP: `clip-score`, `pickscore` and `hpsv2`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, ClassVar

import torch
from PIL import Image

from smalti.evaluation.category_layout import CategoryLayout
from smalti.evaluation.clip import Clip, load_clip, prepare, prepare_whole
from smalti.evaluation.ranks import own_device
from smalti.evaluation.suites.preference.base import Preference
from smalti.evaluation.weights import find_weights, revision_of

GROUP = 80
"""Number of prompts of a group, whose mean counts in HPSv2's deviation."""


@dataclass(frozen=True)
class _ClipSuite(Preference):
    """A suite with a CLIP of transformers.

    Attributes:
        clip: folder or hub id of the CLIP; @REVISION may follow.
        device: device of the network; with torchrun "cuda" is each process's own GPU.
    """

    clip: str = ""
    device: str = "cpu"
    example: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    resize: ClassVar[str] = "shorter side, centre cut out, bicubic"

    def rate(self, text: str, images: Sequence[Image.Image]) -> list[float]:
        """Return the score of each image of a text."""
        clip = load_clip("clip", self.clip, own_device(self.device), self.example)
        pixels = torch.stack([self.pixels(image, clip.size) for image in images])
        cosines = clip.embed_images(pixels) @ clip.embed_texts([text])[0]
        return [self.convert(cosine, clip) for cosine in cosines.tolist()]

    def pixels(self, image: Image.Image, size: int) -> torch.Tensor:
        """Return an image as the network reads it, (3, size, size)."""
        return prepare(image, size)

    def convert(self, cosine: float, clip: Clip) -> float:
        """Return the score for the cosine of an image and its text."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return the network, its revision, the formula, and how images are resized."""
        found = find_weights("clip", self.clip, self.example)
        return {
            "name": self.clip,
            "clip_revision": revision_of(self.clip, found),
            "score": self.formula,
            "resize": self.resize,
            "dtype": "float32",
        }


@dataclass(frozen=True)
class ClipScore(_ClipSuite):
    """Score how similar images are to their prompts by CLIP: 100 times the cosine, at least 0.

    It needs the extra `benchmarks`. Prompts are a file's, which `--prompts` names.

    Attributes:
        clip: folder or hub id of a CLIP, such as openai/clip-vit-large-patch14; @REVISION may follow.
        device: device of the network; with torchrun "cuda" is each process's own GPU.
    """

    example: ClassVar[str] = "openai/clip-vit-large-patch14"
    formula: ClassVar[str] = "100 × cosine, at least 0"

    def convert(self, cosine: float, clip: Clip) -> float:
        """Return 100 times the cosine, at least 0."""
        return max(100 * cosine, 0.0)


@dataclass(frozen=True)
class PickScore(_ClipSuite):
    """Score images by PickScore, which has learned what people pick: the network's scale times the cosine.

    It needs the extra `benchmarks`. Prompts are a file's, which `--prompts` names.

    Attributes:
        clip: folder or hub id of PickScore, such as yuvalkirstain/PickScore_v1; @REVISION may follow.
        device: device of the network; with torchrun "cuda" is each process's own GPU.
    """

    example: ClassVar[str] = "yuvalkirstain/PickScore_v1"
    formula: ClassVar[str] = "exp(logit_scale) × cosine"

    def convert(self, cosine: float, clip: Clip) -> float:
        """Return the network's scale times the cosine."""
        return clip.scale * cosine


@dataclass(frozen=True)
class HpsV2(_ClipSuite, CategoryLayout):
    """Score images by HPSv2.1, a CLIP that has learned what people prefer: 100 times the cosine, by style.

    It needs the extra `benchmarks`, and weights that `tools/convert_scorer.py hpsv2` has written. A folder with the
    lists of the four styles, as `--prompts` names it, gives HPSv2's layout: STYLE/00000.png.

    Attributes:
        clip: folder of the converted weights.
        device: device of the network; with torchrun "cuda" is each process's own GPU.
    """

    count: ClassVar[int] = 3200
    example: ClassVar[str] = "as tools/convert_scorer.py writes it"
    formula: ClassVar[str] = "100 × cosine"
    resize: ClassVar[str] = "longer side, zeros around, bicubic with antialiasing"

    def pixels(self, image: Image.Image, size: int) -> torch.Tensor:
        """Return an image with zeros around it, (3, size, size)."""
        return prepare_whole(image, size)

    def convert(self, cosine: float, clip: Clip) -> float:
        """Return 100 times the cosine."""
        return 100 * cosine

    def summarize(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the mean, that of each style, and the deviation of the means of 80 images each, as published."""
        scores = super().summarize(rows)
        for name, one in scores.get("categories", {}).items():
            own = [score for row in rows if row["category"] == name for score in row["scores"]]
            means = [fmean(own[first : first + GROUP]) for first in range(0, len(own), GROUP)]
            one["deviation_of_groups"] = round(pstdev(means), 4)
        return scores
