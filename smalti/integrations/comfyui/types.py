"""What travels along the links between Smalti's nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy_api.latest import io

from smalti.common.checks import quoted
from smalti.editing.canvas import Canvas
from smalti.errors import SmaltiError

MODEL = io.Custom("SMALTI_MODEL")
ADAPTERS = io.Custom("SMALTI_ADAPTERS")
PROMPT = io.Custom("SMALTI_PROMPT")
SETTINGS = io.Custom("SMALTI_SETTINGS")
TOKENS = io.Custom("SMALTI_TOKENS")
GRID = io.Custom("SMALTI_GRID")


@dataclass(frozen=True)
class Prompt:
    """A prompt and what images should not show.

    Attributes:
        text: text of the whole image.
        negative: prompt of the unconditional pass; "" is the empty prompt.
    """

    text: str
    negative: str = ""


@dataclass(frozen=True)
class Changes:
    """Settings that differ from the model's own.

    Attributes:
        preset: name of a preset, or None.
        values: settings by name, which come on top of the preset.
    """

    preset: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TokenGrids:
    """Images as tokens.

    Attributes:
        tokens: (B, h, w) int64 on the CPU.
        codebook: name of the tokens' codebook, from `smalti.vq.naming.codebook_name`.
        canvases: place of each image on the canvas that its tokens cover.
        texts: metadata of each image, as in its file.
    """

    tokens: torch.Tensor
    codebook: str
    canvases: tuple[Canvas, ...]
    texts: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, eq=False)
class Grid:
    """Selected tokens of images.

    Attributes:
        cells: (B, h, w) bool on the CPU.
        canvases: place of each image on the canvas that its tokens cover.
    """

    cells: torch.Tensor
    canvases: tuple[Canvas, ...]


def check_text(name: str, value: Any) -> str:
    """Return a text without spaces around it, "" for None, or raise SmaltiError for anything else."""
    if value is not None and not isinstance(value, str):
        raise SmaltiError(f"{name} must be text, not {quoted(value)}", argument=name)
    return (value or "").strip()


def check_type(name: str, value: Any, kind: type[Any], made_by: str) -> None:
    """Raise SmaltiError unless an input is of the type that one of Smalti's nodes makes."""
    if not isinstance(value, kind):
        raise SmaltiError(
            f"{name} must come from {made_by}, not be {type(value).__name__}",
            argument=name,
        )
