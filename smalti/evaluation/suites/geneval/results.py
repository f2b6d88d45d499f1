"""The official detector's results: one verdict an image in JSON lines, as GenEval's `evaluate_images.py` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from smalti.common.files import parse_json, read_json_lines
from smalti.errors import SmaltiError
from smalti.evaluation.geneval import Prompt, check_prompt
from smalti.evaluation.suites.geneval.rules import COLORS, Found, judge

Result = dict[str, Any]
"""One line: `tag`, `correct`, `metadata` (the prompt as JSON text), and `details` (the boxes as JSON text)."""


def read_results(path: str | Path) -> tuple[list[Prompt], list[list[Result]]]:
    """Return the prompts of a file of results, and the results of each prompt's images.

    Lines with the same `metadata` are images of one prompt.

    Raises:
        SmaltiError: the file is missing or empty, or a line is not a result; the error names its number.
    """
    groups: dict[str, list[Result]] = {}
    prompts: dict[str, Prompt] = {}
    for number, result in read_json_lines(path):
        try:
            prompt = _prompt_of(result)
        except SmaltiError as error:
            raise SmaltiError(f"{path} line {number}: {error}") from error
        prompts[result["metadata"]] = prompt
        groups.setdefault(result["metadata"], []).append(result)
    if not groups:
        raise SmaltiError(f"{path} holds no results")
    return list(prompts.values()), list(groups.values())


def recheck(prompt: Prompt, results: Sequence[Result]) -> Iterator[bool]:
    """Yield, for each image that can be judged from its boxes, whether the rules here give the same verdict.

    Boxes have no colours, so prompts that ask for one yield nothing.
    """
    if any("color" in entry for entry in prompt["include"]):
        return
    for result in results:
        if "details" not in result:
            continue
        boxes = parse_json(result["details"], "details")
        kept = {
            name: [Found((x0, y0, x1, y1), score) for x0, y0, x1, y1, score in rows]
            for name, rows in boxes.items()
        }
        yield judge(prompt, kept, lambda objects, name: []).correct == result["correct"]


def _prompt_of(result: Any) -> Prompt:
    """Return the prompt of a result; raise SmaltiError, which names the fault, unless the result has its format."""
    if not isinstance(result, dict) or not isinstance(result.get("correct"), bool):
        raise SmaltiError("correct must be true or false: the line is no result of GenEval's detector")
    if not isinstance(result.get("metadata"), str):
        raise SmaltiError("metadata must be the prompt as JSON text")
    prompt = parse_json(result["metadata"], "metadata")
    check_prompt(prompt, None, COLORS)
    if result.get("tag") != prompt["tag"]:
        raise SmaltiError(f"tag must be that of the prompt, {prompt['tag']!r}, not {result.get('tag')!r}")
    if "details" in result:
        _check_details(result["details"])
    return prompt


def _check_details(details: Any) -> None:
    """Raise SmaltiError unless a text holds lists of boxes by class."""
    boxes = parse_json(details, "details") if isinstance(details, str) else None
    sound = isinstance(boxes, dict) and all(
        isinstance(rows, list)
        and all(isinstance(row, list) and len(row) == 5 and all(map(_is_number, row)) for row in rows)
        for rows in boxes.values()
    )
    if not sound:
        raise SmaltiError("details must be JSON text with lists [left, top, right, bottom, score] by class")


def _is_number(value: Any) -> bool:
    """Return whether a value of JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
