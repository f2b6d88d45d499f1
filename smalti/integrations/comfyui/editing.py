"""Nodes that edit images by their tokens: by prompts, under a mask, beyond the edges, as variations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io

from smalti.common.checks import check_real, check_whole
from smalti.editing.edit import PreparedEdit, prepare_edit
from smalti.editing.picture import Picture
from smalti.editing.selection import Selection
from smalti.editing.source import SourceImage, open_source
from smalti.errors import SmaltiError, renamed
from smalti.generation.drawing import start
from smalti.integrations.comfyui.convert import from_pictures, to_arrays, to_masks
from smalti.integrations.comfyui.drawing import check_batch, check_tokens, drawing_inputs, metadata
from smalti.integrations.comfyui.models import SmaltiModel
from smalti.integrations.comfyui.running import Progress, interruptible
from smalti.integrations.comfyui.settings import settings_of
from smalti.integrations.comfyui.types import (
    GRID,
    MODEL,
    PROMPT,
    TOKENS,
    Grid,
    Prompt,
    TokenGrids,
    check_text,
    check_type,
)

_LARGEST_GROWTH = 8192


@dataclass(frozen=True)
class Common:
    """The inputs that all editing nodes have; those of the sampler, and these.

    Attributes:
        blend: whether pixels outside the region fade into it.
        tokens: tokens of the image, or None.
    """

    seed: int = 0
    batch_size: int = 1
    preview: bool = True
    settings: Any = None
    blend: bool = True
    tokens: Any = None


class _Editor(io.ComfyNode):
    """What the editing nodes share: inputs, outputs and the loop over the images."""

    @classmethod
    def _schema(cls, node_id: str, name: str, description: str, inputs: list[Any]) -> Any:
        return io.Schema(
            node_id=node_id,
            display_name=name,
            category="smalti/edit",
            description=description,
            inputs=[
                MODEL.Input("model"),
                io.Image.Input("image"),
                PROMPT.Input("prompt", tooltip="The whole image as it should be."),
                *inputs,
                *drawing_inputs(),
                io.Boolean.Input(
                    "blend",
                    default=True,
                    optional=True,
                    tooltip="Fade into the region over two tokens. Off keeps every pixel outside of it.",
                ),
                TOKENS.Input("tokens", optional=True, tooltip="Tokens of the image, which then stay exact."),
            ],
            outputs=[
                io.Image.Output("image", display_name="image"),
                TOKENS.Output("tokens", display_name="tokens"),
                GRID.Output("region", display_name="region"),
            ],
        )

    @classmethod
    def _run(cls, model: Any, image: Any, prompt: Any, selections: list[Selection], common: Common) -> Any:
        """Edit each image with its selection."""
        check_type("model", model, SmaltiModel, "Smalti Load")
        check_type("prompt", prompt, Prompt, "Smalti Prompt")
        check_batch(common.seed, common.batch_size)
        parts = model.ready()
        settings = settings_of(parts, common.settings)
        pictures = [Picture(one) for one in to_arrays(image)]
        tokens, seed, count = common.tokens, common.seed, common.batch_size
        progress = Progress(len(pictures), settings.num_inference_steps, common.preview)
        images, grids, texts, canvases, regions = [], [], [], [], []
        for index, (picture, selection) in enumerate(zip(pictures, selections, strict=True)):
            source = _source(parts, picture, tokens, index, len(pictures), settings.size)
            with interruptible(parts), renamed(negative_prompt="negative", grow="left"):
                edit: PreparedEdit = prepare_edit(
                    parts,
                    source,
                    prompt.text,
                    selection,
                    settings,
                    blend=common.blend,
                    seed=seed,
                )
                generation = start(
                    parts,
                    prompt.text,
                    edit.settings,
                    negative_prompt=prompt.negative,
                    num_images_per_prompt=count,
                    seed=seed,
                    tokens=edit.start_tokens(parts).expand(count, -1, -1),
                    editable=edit.region.tokens.expand(count, -1, -1),
                    preview=common.preview,
                )
                progress.follow(parts, generation)
            result = edit.result(parts, generation.output("tokens"))
            images += result.images
            grids.append(result.tokens)
            canvases += [result.canvas] * count
            regions.append(result.region.expand(count, -1, -1))
            texts += [
                metadata(parts, result.prompt, result.negative_prompt, one, result.settings)
                for one in result.seeds
            ]
        return io.NodeOutput(
            from_pictures(images),
            TokenGrids(torch.cat(grids), result.codebook, tuple(canvases), tuple(texts)),
            Grid(torch.cat(regions), tuple(canvases)),
        )


def _source(
    parts: Any, picture: Picture, tokens: Any, index: int, count: int, size: tuple[int, int]
) -> SourceImage:
    """Return an image for an edit, with its tokens if they are connected."""
    if tokens is None:
        return open_source(parts, picture, size, reuse=False)
    check_tokens(parts, tokens)
    if len(tokens.tokens) != count or tokens.canvases[index].size != picture.pixels.shape[:2]:
        raise SmaltiError("tokens must be those of the image, from the same node", argument="tokens")
    canvas, text = tokens.canvases[index], tokens.texts[index]
    return SourceImage(picture, canvas, tokens.tokens[index], text.get("prompt"))


class SmaltiEdit(_Editor):
    """An edit by prompts: Smalti selects the tokens that the new prompt makes less likely."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return cls._schema(
            "SmaltiEdit",
            "Smalti Edit",
            "Refills the tokens that no longer fit the prompt. The others stay as they are.",
            [
                io.String.Input(
                    "source_prompt",
                    default="",
                    optional=True,
                    tooltip="What the image shows now. Empty takes the prompt of connected tokens, else none.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Select tokens whose likelihood drops by more than this share of the largest drop.",
                ),
                io.Float.Input(
                    "share",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Share of the tokens to select instead of the threshold; 0 leaves it to the threshold.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        image: Any,
        prompt: Any,
        source_prompt: str = "",
        threshold: float = 0.3,
        share: float = 0.0,
        **common: Any,
    ) -> Any:
        """Return the edited images, their tokens and the region."""
        selection = Selection(
            source_prompt=check_text("source_prompt", source_prompt) or None,
            share=share or None,
            threshold=None if share else threshold,
        )
        return cls._run(model, image, prompt, [selection] * len(to_arrays(image)), Common(**common))


class SmaltiInpaint(_Editor):
    """Inpainting: the tokens that a mask touches are filled again."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return cls._schema(
            "SmaltiInpaint",
            "Smalti Inpaint",
            "Refills the tokens that a mask touches: inpainting, removal.",
            [
                io.Mask.Input("mask", tooltip="1 changes. A mask of another size is scaled to the image."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Share of the masked tokens to fill again, preferably the least likely ones.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, image: Any, prompt: Any, mask: Any, strength: float = 1.0, **common: Any
    ) -> Any:
        """Return the edited images, their tokens and the region."""
        arrays = to_arrays(image)
        masks = to_masks(mask, len(arrays), arrays[0].shape[:2])
        share = check_real("strength", strength, 0, 1, above=True)
        part = None if share == 1 else share
        return cls._run(
            model, image, prompt, [Selection(mask=one, strength=part) for one in masks], Common(**common)
        )


class SmaltiOutpaint(_Editor):
    """Outpainting: the image grows beyond its edges."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        edges = [
            io.Int.Input(
                name,
                default=64 if name in ("left", "right") else 0,
                min=0,
                max=_LARGEST_GROWTH,
                step=8,
                tooltip="Pixels to add.",
            )
            for name in ("left", "top", "right", "bottom")
        ]
        return cls._schema("SmaltiOutpaint", "Smalti Outpaint", "Adds pixels beyond the edges.", edges)

    @classmethod
    def execute(
        cls,
        model: Any,
        image: Any,
        prompt: Any,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        **common: Any,
    ) -> Any:
        """Return the grown images, their tokens and the region."""
        edges = {"left": left, "top": top, "right": right, "bottom": bottom}
        for name, edge in edges.items():
            check_whole(name, edge, 0, _LARGEST_GROWTH)
        if not any(edges.values()):
            raise SmaltiError(
                "left, top, right and bottom must add at least one pixel, not 0 each", argument="left"
            )
        selection = Selection(grow=(left, top, right, bottom))
        return cls._run(model, image, prompt, [selection] * len(to_arrays(image)), Common(**common))


class SmaltiVary(_Editor):
    """Variations: a share of the tokens is filled again."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        strength = io.Float.Input(
            "strength",
            default=0.3,
            min=0.01,
            max=1.0,
            step=0.05,
            tooltip="Share of the tokens to fill again, drawn at random, preferably the least likely ones.",
        )
        return cls._schema("SmaltiVary", "Smalti Vary", "Draws variations of an image.", [strength])

    @classmethod
    def execute(cls, model: Any, image: Any, prompt: Any, strength: float = 0.3, **common: Any) -> Any:
        """Return the variations, their tokens and the region."""
        selection = Selection(strength=check_real("strength", strength, 0, 1, above=True))
        return cls._run(model, image, prompt, [selection] * len(to_arrays(image)), Common(**common))
