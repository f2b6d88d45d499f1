"""Recorded answers: JSON lines with the answers of any model for visual questions, mPLUG's for example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smalti.common.files import read_json_lines
from smalti.errors import SmaltiError


def read_answers(path: str | Path) -> dict[str, list[dict[str, str]]]:
    """Return the answers for each image of each prompt.

    A line is `{"item_id": "partiprompts0", "image": 0, "answers": {"1": "yes", "2": "no"}}`.

    Raises:
        SmaltiError: the file is missing or empty, a line is not of this form, or images are not numbered from 0.

    Example:
        >>> line = '{"item_id": "a", "image": 0, "answers": {"1": "yes"}}'
        >>> _ = Path("answers.jsonl").write_text(line)
        >>> read_answers("answers.jsonl")
        {'a': [{'1': 'yes'}]}
    """
    found: dict[str, dict[int, dict[str, str]]] = {}
    for number, line in read_json_lines(path):
        if not _is_line(line):
            raise SmaltiError(
                f"{path} line {number}: a line must have item_id, image and answers by question"
            )
        images = found.setdefault(line["item_id"], {})
        if line["image"] in images:
            raise SmaltiError(
                f"{path} line {number}: image {line['image']} of {line['item_id']} occurs twice"
            )
        images[line["image"]] = line["answers"]
    if not found:
        raise SmaltiError(f"{path} holds no answers")
    for name, images in found.items():
        if sorted(images) != list(range(len(images))):
            raise SmaltiError(f"{path}: images of {name} must be numbered from 0 without gaps")
    return {name: [images[index] for index in range(len(images))] for name, images in found.items()}


def _is_line(line: Any) -> bool:
    """Return whether a value of JSON has the form of a line."""
    return (
        isinstance(line, dict)
        and isinstance(line.get("item_id"), str)
        and isinstance(line.get("image"), int)
        and isinstance(line.get("answers"), dict)
        and all(isinstance(answer, str) for answer in line["answers"].values())
    )
