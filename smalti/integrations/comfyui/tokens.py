"""Nodes between tokens, pixels and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io
from PIL import Image

from smalti.common.checks import quoted
from smalti.common.files import atomic_path
from smalti.common.images import encode_image
from smalti.editing.embedded import TEXT, EmbeddedTokens, embed_tokens
from smalti.editing.picture import Picture
from smalti.editing.source import open_source
from smalti.editing.source import prepare as prepare_source
from smalti.errors import SmaltiError, renamed
from smalti.integrations.comfyui import folders
from smalti.integrations.comfyui.convert import from_pixels, to_arrays
from smalti.integrations.comfyui.drawing import check_tokens
from smalti.integrations.comfyui.models import SmaltiModel
from smalti.integrations.comfyui.settings import settings_of
from smalti.integrations.comfyui.types import MODEL, TOKENS, TokenGrids, check_text, check_type
from smalti.vq.naming import codebook_name

_LONGEST_PREFIX = 200


class SmaltiDecode(io.ComfyNode):
    """Tokens to pixels."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="SmaltiDecode",
            display_name="Smalti Decode",
            category="smalti",
            description="Decodes tokens to images.",
            inputs=[MODEL.Input("model"), TOKENS.Input("tokens")],
            outputs=[io.Image.Output("image", display_name="image")],
        )

    @classmethod
    def execute(cls, model: Any, tokens: Any) -> Any:
        """Return the images."""
        check_type("model", model, SmaltiModel, "Smalti Load")
        parts = model.ready()
        check_tokens(parts, tokens)
        pixels = parts.decode(tokens.tokens).permute(0, 2, 3, 1)
        return io.NodeOutput(from_pixels(pixels.contiguous()))


class SmaltiEncode(io.ComfyNode):
    """Pixels to tokens."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="SmaltiEncode",
            display_name="Smalti Encode",
            category="smalti",
            description="Encodes images, whose sides must fit the model's grid, as tokens.",
            inputs=[MODEL.Input("model"), io.Image.Input("image")],
            outputs=[TOKENS.Output("tokens", display_name="tokens")],
        )

    @classmethod
    def execute(cls, model: Any, image: Any) -> Any:
        """Return the tokens."""
        check_type("model", model, SmaltiModel, "Smalti Load")
        pictures = [Picture(one) for one in to_arrays(image)]
        parts = model.ready()
        parts.grid(*pictures[0].pixels.shape[:2])
        pixels = torch.stack([torch.from_numpy(one.shown) for one in pictures])
        grids = parts.encode(pixels.permute(0, 3, 1, 2))
        canvases = tuple(embed_tokens(one, parts.image_tokenizer).canvas for one in grids)
        texts: tuple[dict[str, str], ...] = ({},) * len(grids)
        return io.NodeOutput(TokenGrids(grids, codebook_name(parts.image_tokenizer), canvases, texts))


class SmaltiSaveTokens(io.ComfyNode):
    """Images as PNG files that hold their tokens."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="SmaltiSaveTokens",
            display_name="Smalti Save with Tokens",
            category="smalti",
            description="Writes PNG files with tokens, prompt and settings, which all of Smalti reads.",
            inputs=[
                io.Image.Input("image"),
                TOKENS.Input("tokens", tooltip="The tokens of these images, from the same node."),
                io.String.Input(
                    "filename_prefix", default="smalti", tooltip="Start of the files' names in output."
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image: Any, tokens: Any, filename_prefix: str = "smalti") -> Any:
        """Write the files and show them in the node."""
        check_type("tokens", tokens, TokenGrids, "one of Smalti's nodes")
        pictures = [Picture(one) for one in to_arrays(image)]
        sizes = [canvas.size for canvas in tokens.canvases]
        if sizes != [one.pixels.shape[:2] for one in pictures]:
            raise SmaltiError("tokens must be those of the images, from the same node", argument="tokens")
        height, width = sizes[0]
        folder, name, counter, subfolder = _place(filename_prefix, width, height)
        extra = getattr(cls.hidden, "extra_pnginfo", None) or {}
        # ComfyUI's own "prompt" would collide with Smalti's. The workflow alone lets ComfyUI open the file.
        workflow = {"workflow": json.dumps(extra["workflow"])} if "workflow" in extra else {}
        shown = []
        for index, picture in enumerate(pictures):
            embedded = EmbeddedTokens(tokens.tokens[index], tokens.canvases[index], tokens.codebook)
            text = {**tokens.texts[index], TEXT: embedded.to_text(picture), **workflow}
            file = f"{name}_{counter + index:05}_.png"
            with atomic_path(Path(folder) / file) as temporary:
                temporary.write_bytes(encode_image(Image.fromarray(picture.pixels), "PNG", text))
            shown.append({"filename": file, "subfolder": subfolder, "type": "output"})
        return io.NodeOutput(ui={"images": shown})


def _place(prefix: Any, width: int, height: int) -> tuple[str, str, int, str]:
    """Return folder, start of the name, number and subfolder of a new file in ComfyUI's output folder."""
    text = check_text("filename_prefix", prefix)
    try:
        if not text or "\0" in text or len(text) > _LONGEST_PREFIX:
            raise ValueError(text)
        found = folder_paths.get_save_image_path(text, folder_paths.get_output_directory(), width, height)
    except Exception as error:  # ComfyUI's own for a folder outside of its own is a bare Exception
        raise SmaltiError(
            f"filename_prefix must be a name of 1 to {_LONGEST_PREFIX} letters inside ComfyUI's output folder, "
            f"not {quoted(prefix)}",
            argument="filename_prefix",
        ) from error
    folder, name, counter, subfolder, _ = found
    return folder, name, counter, subfolder


class SmaltiLoadTokens(io.ComfyNode):
    """An image file with its tokens."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="SmaltiLoadTokens",
            display_name="Smalti Load with Tokens",
            category="smalti",
            description="Reads an image with the tokens in its file; other images are encoded.",
            inputs=[
                MODEL.Input("model"),
                io.Combo.Input(
                    "file",
                    options=folders.image_names(),
                    upload=io.UploadType.image,
                    tooltip="Image in ComfyUI's input folder.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image"),
                TOKENS.Output("tokens", display_name="tokens"),
                io.String.Output("text", display_name="prompt"),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str = "") -> bool | str:
        """Return True, or what is wrong. An uploaded file need not be in the list yet."""
        try:
            folders.find_image(file)
        except SmaltiError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str = "", **_: Any) -> Any:
        """Return what changes when the file changes."""
        try:
            state = folders.find_image(file).stat()
        except SmaltiError as error:
            return str(error)
        return f"{state.st_size} {state.st_mtime_ns}"

    @classmethod
    def execute(cls, model: Any, file: str) -> Any:
        """Return the image, its tokens, and the prompt that made it, which may be empty."""
        check_type("model", model, SmaltiModel, "Smalti Load")
        path = folders.find_image(file)
        parts = model.ready()
        with renamed(image="file"):
            source = open_source(parts, path, settings_of(parts, None).size, reuse=True)
        work = prepare_source(parts, source, None)
        texts = {key: value for key, value in source.picture.text.items() if key not in (TEXT, "workflow")}
        own = texts if source.prompt is not None else {}
        tokens = TokenGrids(work.tokens[None], codebook_name(parts.image_tokenizer), (work.canvas,), (own,))
        image = from_pixels(torch.from_numpy(source.picture.shown)[None])
        return io.NodeOutput(image, tokens, source.prompt or "")
