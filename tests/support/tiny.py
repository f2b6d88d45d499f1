"""Small things that several tests need: a tiny denoiser, a text tokenizer, the golden folder."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from smalti.model.config import DenoiserConfig, RopeConfig
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch, PromptTemplate, build_prompts
from smalti.model.text import TextTokenizer

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SHORT = PromptTemplate("{prompt}<|im_end|>{slots}")
GRID = (4, 4)
TEXTS = ["a red circle", "a blue square left of a yellow star", "two dogs", "one cat"]


@lru_cache
def golden_tokenizer() -> TextTokenizer:
    return TextTokenizer.from_file(GOLDEN / "tokenizer.json")


@lru_cache
def golden_expectations() -> dict[str, Any]:
    return json.loads((GOLDEN / "expected.json").read_text())


def tiny_config(**changes: Any) -> DenoiserConfig:
    values = dict(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        vocab_size=456,
        codebook_size=64,
        rope=RopeConfig(),
        prompt=SHORT,
    )
    if changes.get("conditioning") == "cross_attention":
        values["num_text_layers"] = 2
    return DenoiserConfig(**{**values, **changes})


def tiny_denoiser(seed: int = 0, scale: float = 10.0, **changes: Any) -> Denoiser:
    """Random weights, large enough that every part of the input sways the output."""
    denoiser = Denoiser(tiny_config(**changes))
    denoiser.init_weights(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
    return denoiser.eval()


def tiny_prompts(denoiser: Denoiser, texts: list[str], grid: tuple[int, int] = (4, 4)) -> PromptBatch:
    config = denoiser.config
    return build_prompts(
        texts, config.prompt, golden_tokenizer(), height=64, width=64, slots=config.slots(*grid)
    )


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]
