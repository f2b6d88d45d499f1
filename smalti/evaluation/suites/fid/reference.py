"""The real images of a Fréchet distance: MJHQ-30K's folder, any folder of images, or a file of statistics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smalti.common.checks import quoted
from smalti.common.files import atomic_path, check_regular
from smalti.errors import SmaltiError
from smalti.evaluation.category_layout import ENDINGS
from smalti.evaluation.frechet import Gaussian
from smalti.evaluation.prompts import find_prompts

MJHQ_PROMPTS, MJHQ_IMAGES = "meta_data.json", "mjhq30k_imgs"
"""MJHQ-30K's file of prompts and its folder of images by category."""


@dataclass(frozen=True)
class Tree:
    """A folder of images.

    Attributes:
        files: paths of its images, sorted.
        categories: category of each: the folder that it lies in, or None at the top.
    """

    files: list[Path]
    categories: list[str | None]


def read_tree(folder: Path) -> Tree:
    """Return the images of a folder and of the folders in it; MJHQ-30K's are in `mjhq30k_imgs`.

    Raises:
        SmaltiError: there is no such folder, or it has no images.
    """
    inner = folder / MJHQ_IMAGES if (folder / MJHQ_IMAGES).is_dir() else folder
    if not inner.is_dir():
        raise SmaltiError(f"{quoted(str(folder))} is not a folder of images", argument="reference")
    files = sorted(
        Path(place) / name
        for place, _, names in os.walk(inner)
        for name in names
        if name.lower().endswith(ENDINGS) and not name.startswith(".")
    )
    if not files:
        raise SmaltiError(f"{inner} has no images", argument="reference")
    return Tree(files, [None if path.parent == inner else path.parent.name for path in files])


def mjhq_prompts(folder: Path) -> list[Any] | None:
    """Return MJHQ-30K's prompts with category and name; None for a folder without its file of prompts.

    Raises:
        SmaltiError: a prompt has no category.
    """
    path = folder / MJHQ_PROMPTS
    if not path.is_file():
        return None
    prompts = find_prompts(path)
    for prompt in prompts:
        if not isinstance(prompt.get("category"), str):
            raise SmaltiError(
                f"{path}: {quoted(prompt.get('name'))} must have a category", argument="reference"
            )
    return prompts


def write_statistics(path: Path, gaussian: Gaussian, count: int, extractor: Mapping[str, Any]) -> None:
    """Write the Gaussian of real images, so that the images are not needed again.

    Args:
        path: safetensors file.
        gaussian: Gaussian of the images' features.
        count: number of images.
        extractor: what decides about the features; `read_statistics` compares it.
    """
    from safetensors.torch import save_file

    told = {name: str(value) for name, value in extractor.items()} | {"images": str(count)}
    with atomic_path(path) as temporary:
        save_file({"mean": gaussian.mean, "covariance": gaussian.covariance}, temporary, metadata=told)


def read_statistics(path: Path, extractor: Mapping[str, Any]) -> tuple[Gaussian, int]:
    """Return the Gaussian of a file of statistics, and the number of images behind it.

    Raises:
        SmaltiError: the file is missing, or its features are not those of the extractor.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            mean, covariance = file.get_tensor("mean"), file.get_tensor("covariance")
            count = int(told["images"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise SmaltiError(f"{path} is not a file of statistics: {error}", argument="reference") from error
    for name, value in extractor.items():
        if told.get(name) != str(value):
            raise SmaltiError(
                f"{path} has statistics with another {name}: {quoted(told.get(name), 60)}, not "
                f"{quoted(str(value), 60)}",
                argument="reference",
            )
    return Gaussian(mean.to(torch.float64), covariance.to(torch.float64)), count
