"""The suite `hpsv3`: a Qwen2-VL with a head, which has learned what people prefer. Its first output μ is the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from smalti.evaluation.ranks import own_device
from smalti.evaluation.suites.preference import qwen
from smalti.evaluation.suites.preference.base import Preference
from smalti.evaluation.suites.preference.instruction import INSTRUCTION, REWARD
from smalti.evaluation.weights import TEXTS, find_weights, revision_of


@dataclass(frozen=True)
class HpsV3(Preference):
    """Score images by HPSv3, a Qwen2-VL that has learned what people prefer: the mean μ of its distribution.

    It needs the extra `benchmarks`. Configuration and tokenizer are those of the base model, without its weights.
    Prompts are a file's, or a folder's with a list for each category.

    Attributes:
        weights: folder or hub id of HPSv3's weights, such as MizzenAI/HPSv3; @REVISION may follow.
        base: folder or hub id of the base model, such as Qwen/Qwen2-VL-7B-Instruct.
        device: device of the network; with torchrun "cuda" is each process's own GPU.
    """

    weights: str = ""
    base: str = ""
    device: str = "cpu"
    scoring_seconds: ClassVar[float | None] = 0.15

    def rate(self, text: str, images: Sequence[Image.Image]) -> list[float]:
        """Return μ of each image of a text."""
        scorer = qwen.load_qwen(self.weights, self.base, own_device(self.device))
        return [scorer.rate(text=text, image=image)[0] for image in images]

    def describe(self) -> dict[str, Any]:
        """Return the networks, their revisions, the text that the network reads, and the size of images."""
        found = find_weights("weights", self.weights, qwen.EXAMPLE, needs="*.safetensors")
        base = find_weights("base", self.base, qwen.BASE_EXAMPLE, whole=False)
        return {
            "name": self.weights,
            "weights_revision": revision_of(self.weights, found),
            "base_revision": revision_of(self.base, base),
            "base_files": list(TEXTS),
            "score": "μ, the first output",
            "pixels": qwen.PIXELS,
            "resize": "to that many pixels, sides in multiples of 28, bicubic",
            "instruction": INSTRUCTION + REWARD,
            "dtype": "float32" if self.device == "cpu" else "bfloat16, head float32",
        }
