"""The suite `imagereward`: a BLIP with a head, which has learned what people prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import nn

from smalti.errors import SmaltiError
from smalti.evaluation.clip import prepare
from smalti.evaluation.ranks import own_device
from smalti.evaluation.suites.preference.base import Preference
from smalti.evaluation.suites.preference.heads import read_tensors, split_head
from smalti.evaluation.weights import find_weights, needed_module, readable, revision_of

EXAMPLE = "as tools/convert_scorer.py writes it"
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Mean and deviation of the head's output, which the score is freed of."""

MOST_TOKENS = 35
"""Number of tokens of a prompt; longer ones are cut."""


@dataclass(frozen=True)
class ImageReward(Preference):
    """Score images by ImageReward, which has learned what people prefer; 0 is the mean of its training images.

    It needs the extra `benchmarks`, and weights that `tools/convert_scorer.py imagereward` has written. Prompts are a
    file's, which `--prompts` names.

    Attributes:
        weights: folder of the converted weights.
        device: device of the network; with torchrun "cuda" is each process's own GPU.
    """

    weights: str = ""
    device: str = "cpu"
    count: ClassVar[int] = 100

    def rate(self, text: str, images: Sequence[Image.Image]) -> list[float]:
        """Return the score of each image of a text."""
        return load_blip(self.weights, own_device(self.device)).rate(text, images)

    def describe(self) -> dict[str, Any]:
        """Return the network, its revision, and its constants."""
        found = find_weights("weights", self.weights, EXAMPLE)
        return {
            "name": self.weights,
            "weights_revision": revision_of(self.weights, found),
            "mean": MEAN,
            "deviation": DEVIATION,
            "most_tokens": MOST_TOKENS,
            "resize": "shorter side, centre cut out, bicubic",
            "dtype": "float32",
        }


@dataclass(frozen=True)
class Blip:
    """ImageReward's networks.

    Attributes:
        vision: transformers' BlipVisionModel.
        text: transformers' BlipTextModel, whose layers look at the image.
        head: linear layers from a vector of the text model to a number.
        tokenizer: tokenizer of the package `tokenizers`, BERT's.
    """

    vision: nn.Module
    text: nn.Module
    head: nn.Module
    tokenizer: Any

    @torch.no_grad()
    def rate(self, text: str, images: Sequence[Image.Image]) -> list[float]:
        """Return the score of each image of a text; images are in RGB."""
        device = next(self.vision.parameters()).device
        size = int(self.vision.config.image_size)  # type: ignore[union-attr, arg-type]
        pixels = torch.stack([prepare(image, size) for image in images]).to(device)
        seen = self.vision(pixel_values=pixels).last_hidden_state
        ids = torch.tensor([self.tokenizer.encode(text).ids], device=device).expand(len(images), -1)
        output = self.text(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=device),
        )
        values = self.head(output.last_hidden_state[:, 0])[:, 0]
        return ((values - MEAN) / DEVIATION).tolist()


@cache
def load_blip(weights: str, device: str) -> Blip:
    """Return ImageReward's networks from a folder: config.json of a BLIP, tokenizer.json and model.safetensors.

    Raises:
        SmaltiError: there is no such folder, or transformers is missing.
    """
    from tokenizers import Tokenizer

    config_class, vision_class = needed_module("BlipConfig"), needed_module("BlipVisionModel")
    text_class = needed_module("BlipTextModel")
    folder = find_weights("weights", weights, EXAMPLE)
    with readable("weights", weights):
        config = config_class.from_pretrained(folder, local_files_only=True)
        tensors = read_tensors(folder)
        body, head = split_head(tensors, "mlp.layers.", activation=None)
        vision, text = (
            vision_class(config.vision_config),
            text_class(config.text_config, add_pooling_layer=False),
        )
        vision.load_state_dict(_part(body, "vision_model."))
        text.load_state_dict(_part(body, "text_encoder."))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # A text alone needs no padding: the published package pads, and masks what it has padded.
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_TOKENS)
    for part in (vision, text, head):
        part.float().eval().to(device)
    return Blip(vision, text, head, tokenizer)


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names start with a prefix, without it."""
    found = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
    if not found:
        raise SmaltiError(f"weights must have tensors {prefix}…", argument="weights")
    return found
