"""Folders of images in GenEval's layout: `00000/metadata.jsonl` and `00000/samples/0000.png` for each prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from smalti.common.files import make_folder, read_json_lines, write_text_atomic
from smalti.common.images import save_image, to_pil, to_rgb
from smalti.common.opening import open_image, readable
from smalti.errors import SmaltiError

Metadata = dict[str, Any]
"""Metadata of a prompt in GenEval's `metadata.jsonl`: at least its text under "prompt"."""


def check_text(prompt: Any) -> None:
    """Raise SmaltiError unless a prompt's metadata is a JSON object with text under "prompt"."""
    if not isinstance(prompt, dict):
        raise SmaltiError(f"a prompt must be a JSON object, not {type(prompt).__name__}")
    if not isinstance(prompt.get("prompt"), str):
        raise SmaltiError(f"prompt must be text, not {prompt.get('prompt')!r}")


def write_sample(
    folder: str | Path, index: int, prompt: Metadata, images: Sequence[np.ndarray | Image.Image]
) -> None:
    """Write the images of prompt number `index`.

    Args:
        folder: folder of all prompts; it is created if it does not exist.
        index: number of the prompt, at least 0.
        prompt: metadata of the prompt, ready for JSON.
        images: PIL images or uint8 (H, W, 3) arrays.

    Raises:
        SmaltiError: the folder cannot be written.

    Example:
        >>> write_sample("/tmp/samples", 0, {"prompt": "a red circle"}, [Image.new("RGB", (64, 64), "red")])
        >>> read_samples("/tmp/samples")[0][0]["prompt"]
        'a red circle'
    """
    place = Path(folder) / f"{index:05d}"
    make_folder(place / "samples")
    for number, image in enumerate(images):
        save_image(as_rgb(image), place / "samples" / f"{number:04d}.png")
    write_text_atomic(place / "metadata.jsonl", json.dumps(prompt) + "\n")


def read_samples(
    folder: str | Path, check: Callable[[Any], None] = check_text
) -> tuple[list[Metadata], Iterator[list[Image.Image]]]:
    """Return the prompts of a folder, and an iterator over the images of each prompt.

    The iterator opens the images of one prompt at a time.

    Args:
        folder: folder in GenEval's layout.
        check: function that raises SmaltiError for metadata that cannot be used.

    Raises:
        SmaltiError: the folder is missing or has no prompts; a prompt is wrong or has no images. The iterator raises
            it for an image that cannot be read.
    """
    prompts, files = find_samples(folder, check)
    return prompts, (open_images(paths) for paths in files)


def find_samples(
    folder: str | Path, check: Callable[[Any], None] = check_text
) -> tuple[list[Metadata], list[list[Path]]]:
    """Return the prompts of a folder and the paths of each prompt's images, as `read_samples` reads them.

    Raises:
        SmaltiError: the folder is missing or has no prompts; a prompt is wrong or has no images.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise SmaltiError(f"{folder} is not a folder")
    places = sorted(place for place in folder.iterdir() if os.path.isdir(place) and place.name.isdecimal())
    if not places:
        raise SmaltiError(f"{folder} has no folders 00000, 00001, ... with metadata.jsonl and samples/")
    prompts, files = [], []
    for place in places:
        # A process that was killed leaves a temporary file, whose name starts with a dot.
        files.append(
            sorted(path for path in (place / "samples").glob("*.png") if not path.name.startswith("."))
        )
        if not files[-1]:
            raise SmaltiError(f"{place / 'samples'} has no .png images")
        prompts.append(read_prompts(place / "metadata.jsonl", check)[0])
    return prompts, files


def write_prompts(path: str | Path, prompts: Iterable[Metadata]) -> None:
    """Write prompts as JSON lines, the format of GenEval's `evaluation_metadata.jsonl`."""
    write_text_atomic(path, "".join(json.dumps(prompt) + "\n" for prompt in prompts))


def read_prompts(path: str | Path, check: Callable[[Any], None] = check_text) -> list[Metadata]:
    """Read and check prompts from JSON lines.

    Args:
        path: file of JSON lines.
        check: function that raises SmaltiError for metadata that cannot be used.

    Raises:
        SmaltiError: the file is missing or empty; a line is not a prompt, and the error names its number.
    """
    prompts = []
    for number, prompt in read_json_lines(path):
        try:
            check(prompt)
        except SmaltiError as error:
            raise SmaltiError(f"{path} line {number}: {error}") from error
        prompts.append(prompt)
    if not prompts:
        raise SmaltiError(f"{path} holds no prompts")
    return prompts


def as_rgb(image: np.ndarray | Image.Image) -> Image.Image:
    """Return a PIL image or a uint8 (H, W, 3) array as a PIL image in RGB."""
    return to_rgb(image) if isinstance(image, Image.Image) else to_pil(image)


def open_images(paths: Iterable[Path]) -> list[Image.Image]:
    """Return the images of files in RGB.

    Raises:
        SmaltiError: a file is not a readable image.
    """
    images = []
    for path in paths:
        with readable(str(path)):
            images.append(to_rgb(open_image(path)))
    return images
