"""HPSv3's network: transformers' Qwen2-VL with a head that reads the place of one token.

As in the published code, every position of text and image counts one: the three axes of Qwen2-VL's positions are equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import nn

from smalti.errors import SmaltiError
from smalti.evaluation.clip import normalize
from smalti.evaluation.suites.preference.heads import read_tensors, split_head
from smalti.evaluation.suites.preference.instruction import INSTRUCTION, REWARD, REWARD_TOKEN
from smalti.evaluation.weights import find_weights, needed_module, readable

EXAMPLE = "MizzenAI/HPSv3"
BASE_EXAMPLE = "Qwen/Qwen2-VL-7B-Instruct"

PIXELS = 256 * 28 * 28
"""Number of pixels to which every image is resized, about."""

CONVERSATION = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{text}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
"""Qwen2-VL's template of a conversation, filled in."""

_IMAGE_TOKEN = "<|image_pad|>"
_FRAMES = 2  # an image counts as two equal frames of a video


@dataclass(frozen=True)
class Qwen:
    """HPSv3.

    Attributes:
        body: transformers' Qwen2VLModel, in evaluation mode.
        head: layers from a hidden vector to μ and σ, in float32.
        tokenizer: tokenizer of the package `tokenizers`, with the reward token.
    """

    body: Any
    head: nn.Module
    tokenizer: Any

    @torch.no_grad()
    def rate(self, *, text: str, image: Image.Image) -> list[float]:
        """Return the head's outputs for an image in RGB and its text: μ, then σ before it is made positive."""
        device = next(self.head.parameters()).device
        vision = self.body.config.vision_config
        merge = int(vision.spatial_merge_size)
        patches, grid = cut_patches(image, int(vision.patch_size), merge)
        slots = _IMAGE_TOKEN * (grid[1] * grid[2] // merge**2)
        asked = CONVERSATION.format(image=slots, text=INSTRUCTION.format(text_prompt=text) + REWARD)
        ids = torch.tensor([self.tokenizer.encode(asked).ids], device=device)
        places = (ids[0] == self.tokenizer.token_to_id(REWARD_TOKEN)).nonzero().flatten()
        if len(places) != 1:
            raise SmaltiError(f"prompt must not hold {REWARD_TOKEN}", argument="prompts")
        hidden = self.body(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=torch.arange(ids.shape[1], device=device).expand(3, 1, -1),
            pixel_values=patches.to(device),
            image_grid_thw=torch.tensor([grid], device=device),
            use_cache=False,
        ).last_hidden_state
        return self.head(hidden[0, places[0]].float()).tolist()


def fitted_size(height: int, width: int, factor: int = 28, pixels: int = PIXELS) -> tuple[int, int]:
    """Return the (height, width) to which an image is resized: multiples of `factor`, with about `pixels` pixels.

    Example:
        >>> fitted_size(1024, 1024), fitted_size(600, 900)
        ((448, 448), (364, 532))
    """
    rounded = [max(factor, round(side / factor) * factor) for side in (height, width)]
    scale = math.sqrt(pixels / (height * width))
    if math.prod(rounded) == pixels:
        return rounded[0], rounded[1]
    step = math.floor if math.prod(rounded) > pixels else math.ceil
    fitted = [max(factor, step(side * scale / factor) * factor) for side in (height, width)]
    return fitted[0], fitted[1]


def cut_patches(image: Image.Image, side: int, merge: int) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Return the patches of an image as Qwen2-VL reads them, and the (frames, rows, columns) of their grid.

    Args:
        image: image in RGB.
        side: side of a patch in pixels.
        merge: number of patches a side that become one token; patches of a token follow each other.

    Returns:
        (rows · columns, 3 · 2 · side · side) float32, and the grid.
    """
    height, width = fitted_size(image.height, image.width, side * merge)
    pixels = normalize(image.resize((width, height), Image.Resampling.BICUBIC))
    rows, columns = height // side, width // side
    blocks = pixels.reshape(3, rows // merge, merge, side, columns // merge, merge, side)
    ordered = blocks.permute(1, 4, 2, 5, 0, 3, 6)
    frames = ordered[..., None, :, :].expand(*ordered.shape[:5], _FRAMES, side, side)
    return frames.reshape(rows * columns, -1), (1, rows, columns)


@cache
def load_qwen(weights: str, base: str, device: str) -> Qwen:
    """Return HPSv3 from its weights and the base model's configuration and tokenizer; on a GPU in bfloat16.

    Raises:
        SmaltiError: there are no such files, or transformers is missing.
    """
    from tokenizers import Tokenizer

    config_class, network_class = needed_module("AutoConfig"), needed_module("Qwen2VLModel")
    base_folder = find_weights("base", base, BASE_EXAMPLE, whole=False)
    folder = find_weights("weights", weights, EXAMPLE, needs="*.safetensors")
    with readable("base", base):
        config = config_class.from_pretrained(base_folder, local_files_only=True, trust_remote_code=False)
        tokenizer = Tokenizer.from_file(str(base_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.add_special_tokens([REWARD_TOKEN])
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with readable("weights", weights):
        tensors, head = split_head(read_tensors(folder), "rm_head.", nn.ReLU)
        named = body_names(tensors)
        config.text_config.vocab_size = len(named["language_model.embed_tokens.weight"])
        body = network_class.from_pretrained(None, config=config, state_dict=named, dtype=dtype)
    return Qwen(body.eval().to(device), head.eval().to(device), tokenizer)


def body_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors by the names of `Qwen2VLModel`, from those of any version; that of the words' logits is left out.

    Example:
        >>> list(body_names({"model.norm.weight": torch.ones(1), "visual.a": torch.ones(1), "lm_head.weight": None}))
        ['language_model.norm.weight', 'visual.a']
    """
    found = {}
    for name, tensor in tensors.items():
        inner = re.sub(r"^model\.(?=visual\.|language_model\.)", "", name)
        inner = re.sub(r"^model\.", "language_model.", inner)
        if not inner.startswith("lm_head."):
            found[inner] = tensor
    return found
