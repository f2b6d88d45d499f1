"""The layout of benchmarks with categories: `CATEGORY/NAME.png`, as HPSv2 and MJHQ-30K have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from smalti.errors import SmaltiError
from smalti.evaluation.benchmark import PROMPTS_FILE, Benchmark
from smalti.evaluation.folder import open_images, read_prompts
from smalti.evaluation.prompts import check_name, find_prompts
from smalti.evaluation.request import Request

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of images that are read; a run writes PNG files, which lose nothing."""


@dataclass(frozen=True)
class CategoryLayout(Benchmark):
    """A benchmark whose images lie in a folder for each category, where its prompts have a category and a name.

    Image 0 of a prompt is `CATEGORY/NAME.png`, the others are `CATEGORY/NAME-1.png` and so on. Other prompts have
    GenEval's layout. A folder's prompts are in its prompts.jsonl, which a run writes, or in a file beside it.
    """

    folder_takes_prompts: ClassVar[bool] = True

    def image_path(self, folder: Path, index: int, prompt: Any, number: int) -> Path:
        """Return the path of image `number` of a prompt."""
        if not has_place(prompt):
            return super().image_path(folder, index, prompt, number)
        return place_of(folder, prompt, number)

    def finish(self, folder: Path, index: int, prompt: Any, images: Sequence[Image.Image]) -> None:
        """Write GenEval's metadata for prompts in its layout; others are in the run's file of prompts."""
        if not has_place(prompt):
            super().finish(folder, index, prompt, images)

    def read_folder(self, folder: Path, request: Request) -> tuple[list[Any], Callable[[int], Any]]:
        """Return the prompts of a folder that have images, and a function from a prompt's number to its sample."""
        prompts = self.folder_prompts(folder, request)
        if prompts is None:
            return super().read_folder(folder, request)
        found = [(prompt, files) for prompt in prompts if (files := files_of(folder, prompt))]
        if not found:
            raise SmaltiError(f"{folder} has no image CATEGORY/NAME.png of the prompts", argument="--folder")
        return [prompt for prompt, _ in found], lambda index: open_images(found[index][1])

    def folder_prompts(self, folder: Path, request: Request) -> list[Any] | None:
        """Return the prompts of a folder in this layout; None for a folder in GenEval's layout."""
        if request.prompts is not None:
            prompts = find_prompts(request.prompts, self.check_prompt)
        elif (folder / PROMPTS_FILE).is_file():
            prompts = read_prompts(folder / PROMPTS_FILE, self.check_prompt)
        else:
            return None
        return prompts if has_place(prompts[0]) else None


def has_place(prompt: Any) -> bool:
    """Return whether a prompt has a category and a name, and so a file of its own.

    Example:
        >>> has_place({"prompt": "a cat", "category": "photo", "name": "00000"})
        True
    """
    return "category" in prompt and "name" in prompt


def place_of(folder: Path, prompt: Any, number: int, ending: str = ".png") -> Path:
    """Return the path of image `number` of a prompt that has a place."""
    category, name = (check_name(prompt[key], key) for key in ("category", "name"))
    return folder / category / f"{name}{f'-{number}' if number else ''}{ending}"


def files_of(folder: Path, prompt: Any) -> list[Path]:
    """Return the images of a prompt, whatever their endings, from number 0 on."""
    found: list[Path] = []
    while True:
        places = [place_of(folder, prompt, len(found), ending) for ending in ENDINGS]
        there = next((path for path in places if path.is_file()), None)
        if there is None:
            return found
        found.append(there)
