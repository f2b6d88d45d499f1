"""Nodes that draw: a prompt and the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from comfy_api.latest import io

from smalti.common.checks import LARGEST_SEED, check_seed, check_whole
from smalti.components import Components
from smalti.editing.canvas import Canvas
from smalti.editing.embedded import embed_tokens
from smalti.editing.regions import touched_tokens
from smalti.errors import SmaltiError, renamed
from smalti.generation.drawing import start
from smalti.generation.metadata import describe
from smalti.generation.result import PipelineOutput
from smalti.generation.settings import GenerationSettings
from smalti.integrations.comfyui.convert import check_count, to_masks
from smalti.integrations.comfyui.models import SmaltiModel
from smalti.integrations.comfyui.running import Progress, interruptible
from smalti.integrations.comfyui.settings import settings_of
from smalti.integrations.comfyui.types import (
    MODEL,
    PROMPT,
    SETTINGS,
    TOKENS,
    Prompt,
    TokenGrids,
    check_text,
    check_type,
)
from smalti.vq.naming import codebook_name

MOST_IMAGES = 64


def drawing_inputs() -> list[Any]:
    """Return the inputs that the sampler and all edits have: seed, batch size, settings, preview."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=LARGEST_SEED,
            control_after_generate=True,
            tooltip="Image k of a batch has seed + k.",
        ),
        io.Int.Input("batch_size", default=1, min=1, max=MOST_IMAGES, tooltip="Number of images."),
        io.Boolean.Input("preview", default=True, optional=True, tooltip="Show the image in progress."),
        SETTINGS.Input("settings", optional=True, tooltip="From Smalti Settings; else the model's own."),
    ]


def check_batch(seed: Any, batch_size: Any) -> None:
    """Raise SmaltiError unless seed and batch size are in the ranges of `drawing_inputs`, which links can leave."""
    check_seed(seed)
    check_whole("batch_size", batch_size, 1, MOST_IMAGES)


class SmaltiPrompt(io.ComfyNode):
    """A prompt and a negative prompt."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="SmaltiPrompt",
            display_name="Smalti Prompt",
            category="smalti",
            description="The text of an image, and what the image should not show.",
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="a green pear left of a blue car",
                    tooltip="The whole image in words.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    optional=True,
                    tooltip="What the image should not show; it needs guidance. Empty is the empty prompt.",
                ),
            ],
            outputs=[PROMPT.Output("prompt", display_name="prompt")],
        )

    @classmethod
    def execute(cls, text: str, negative: str = "") -> Any:
        """Return the prompt."""
        words = check_text("text", text)
        if not words:
            raise SmaltiError("text must describe the image, not be empty", argument="text")
        return io.NodeOutput(Prompt(words, check_text("negative", negative)))


class SmaltiSample(io.ComfyNode):
    """The sampler: fills grids of tokens, from masks or from given tokens under a mask."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="SmaltiSample",
            display_name="Smalti Sample",
            category="smalti",
            description="Fills a grid of tokens in a few parallel steps. Smalti Decode makes an image of it.",
            inputs=[
                MODEL.Input("model"),
                PROMPT.Input("prompt"),
                *drawing_inputs(),
                TOKENS.Input(
                    "tokens", optional=True, tooltip="Tokens to start from; the mask says which change."
                ),
                io.Mask.Input("mask", optional=True, tooltip="With tokens: 1 is filled again, 0 stays."),
            ],
            outputs=[TOKENS.Output("tokens", display_name="tokens")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        prompt: Any,
        seed: int,
        batch_size: int,
        preview: bool = True,
        settings: Any = None,
        tokens: Any = None,
        mask: Any = None,
    ) -> Any:
        """Return the tokens of the images."""
        check_type("model", model, SmaltiModel, "Smalti Load")
        check_type("prompt", prompt, Prompt, "Smalti Prompt")
        check_batch(seed, batch_size)
        parts = model.ready()
        chosen = settings_of(parts, settings)
        grids = editable = None
        if tokens is not None or mask is not None:
            grids, editable = _given(parts, tokens, mask, batch_size)
            side = parts.image_tokenizer.config.downscale
            chosen = chosen.replaced(height=grids.shape[1] * side, width=grids.shape[2] * side)
        with renamed(negative_prompt="negative"):
            generation = start(
                parts,
                prompt.text,
                chosen,
                negative_prompt=prompt.negative,
                num_images_per_prompt=batch_size,
                seed=seed,
                tokens=grids,
                editable=editable,
                preview=preview,
            )
        with interruptible(parts):
            Progress(1, chosen.num_inference_steps, preview).follow(parts, generation)
        return io.NodeOutput(to_grids(parts, generation.output("tokens")))


def _given(parts: Components, tokens: Any, mask: Any, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the grids to start from, (B, h, w) with masks, and the positions that may change."""
    if tokens is None or mask is None:
        missing, other = ("tokens", "mask") if tokens is None else ("mask", "tokens")
        raise SmaltiError(f"{missing} must be connected together with {other}", argument=missing)
    check_tokens(parts, tokens)
    grids = tokens.tokens
    check_count("tokens", len(grids), count)
    side = parts.image_tokenizer.config.downscale
    size = (grids.shape[1] * side, grids.shape[2] * side)
    masks = torch.stack([touched_tokens(one, side) for one in to_masks(mask, count, size)])
    return grids.expand(count, -1, -1).masked_fill(masks, parts.mask_code), masks


def check_tokens(parts: Components, tokens: Any) -> None:
    """Raise SmaltiError unless tokens are of the model's codebook."""
    check_type("tokens", tokens, TokenGrids, "one of Smalti's nodes")
    if tokens.codebook != codebook_name(parts.image_tokenizer):
        raise SmaltiError(
            f"tokens must be of the codebook of the model {parts.name}, but another model made them",
            argument="tokens",
        )


def to_grids(
    parts: Components, drawn: PipelineOutput, canvases: Sequence[Canvas] | None = None
) -> TokenGrids:
    """Return drawn tokens with their metadata; without canvases the images fill their own."""
    if canvases is None:
        canvases = [embed_tokens(one, parts.image_tokenizer).canvas for one in drawn.tokens]
    negatives: Sequence[str | None] = drawn.negative_prompts or [None] * len(drawn.seeds)
    texts = [
        metadata(parts, prompt, negative, seed, drawn.settings)
        for prompt, negative, seed in zip(drawn.prompts, negatives, drawn.seeds, strict=True)
    ]
    return TokenGrids(drawn.tokens, codebook_name(parts.image_tokenizer), tuple(canvases), tuple(texts))


def metadata(
    parts: Components, prompt: str, negative: str | None, seed: int, settings: GenerationSettings
) -> dict[str, str]:
    """Return the metadata of an image as all of Smalti writes them."""
    return describe(prompt, negative, seed, settings, parts.name, version("smalti"))
