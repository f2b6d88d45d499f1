"""DPG-Bench's questions: the CSV file of the benchmark, one question a row."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smalti.common.checks import quoted
from smalti.common.files import read_text
from smalti.errors import SmaltiError

COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
"""Columns that are read; the file may have others."""

_LARGEST = 64 * 2**20  # bytes


@dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes:
        text: the question, whose answer should be "yes".
        parents: numbers of the questions that must hold before this one can.
        category: category in detail, such as "entity - whole".
    """

    text: str
    parents: tuple[int, ...]
    category: str

    @property
    def broad(self) -> str:
        """The category without its detail, such as "entity"."""
        return self.category.split("-")[0].strip()


@dataclass
class Item:
    """A prompt and its questions.

    Attributes:
        name: name of the prompt, and of its image's file.
        text: the prompt.
        questions: questions by their number, in the order of the file.
    """

    name: str
    text: str
    questions: dict[int, Question] = field(default_factory=dict)

    def as_prompt(self) -> dict[str, Any]:
        """Return the prompt as metadata that is ready for JSON."""
        rows = {
            str(number): {"question": one.text, "parents": list(one.parents), "category": one.category}
            for number, one in self.questions.items()
        }
        return {"item_id": self.name, "prompt": self.text, "questions": rows}


def read_questions(path: str | Path, *, as_published: bool = False) -> list[Item]:
    """Return the prompts of DPG-Bench's file with their questions.

    Args:
        path: CSV file with the columns `COLUMNS`.
        as_published: whether the first question of the file is lost, as in the published script.

    Raises:
        SmaltiError: the file is missing, lacks a column, or has a row that is no question; the error names the row.
    """
    rows = csv.DictReader(io.StringIO(read_text(path, limit=_LARGEST)))
    missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise SmaltiError(f"{path} must have the columns {', '.join(COLUMNS)}; it lacks {', '.join(missing)}")
    items: dict[str, Item] = {}
    for number, row in enumerate(rows):
        if as_published and number == 0:
            continue
        name, key, question = _question(row, f"{path} row {number + 1}")
        item = items.setdefault(name, Item(name, row["text"]))
        if key in item.questions:
            raise SmaltiError(f"{path} row {number + 1}: proposition_id {key} of {name} occurs twice")
        item.questions[key] = question
    if not items:
        raise SmaltiError(f"{path} holds no questions")
    if not as_published:
        _check_parents(items.values(), path)
    return list(items.values())


def _question(row: dict[str, Any], what: str) -> tuple[str, int, Question]:
    """Return the name of the prompt, the number and the question of a row."""
    if any(not isinstance(row[name], str) for name in COLUMNS):
        raise SmaltiError(f"{what} must have all of the file's columns")
    name = row["item_id"].strip()
    if not name or "/" in name or "\\" in name or name.startswith("."):
        raise SmaltiError(f"{what}: item_id must be the name of a file, not {quoted(name)}")
    try:
        key = int(row["proposition_id"])
        parents = tuple(int(part) for part in row["dependency"].split(","))
    except ValueError as error:
        raise SmaltiError(f"{what}: proposition_id and dependency must be whole numbers") from error
    category = row["tuple"].split("(")[0].strip()
    return name, key, Question(row["question_natural_language"], tuple(p for p in parents if p), category)


def _check_parents(items: Any, path: str | Path) -> None:
    """Raise SmaltiError if a question depends on one that its prompt does not have."""
    for item in items:
        for number, question in item.questions.items():
            for parent in question.parents:
                if parent not in item.questions:
                    raise SmaltiError(
                        f"{path}: question {number} of {item.name} depends on {parent}, which it lacks"
                    )
