"""DPG-Bench's scores from answers: a question whose parent has the answer "no" counts as "no"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Questions = Mapping[str, Mapping[str, Any]]
"""Questions of a prompt by number, as `Item.as_prompt` gives them."""

Answers = Mapping[str, str]
"""Answers for one image by the number of the question."""


class ItemScore(NamedTuple):
    """The scores of a prompt.

    Attributes:
        images: score of each image: the share of its questions that hold.
        categories: for each category in detail, the scores that count in it.
    """

    images: list[float]
    categories: dict[str, list[float]]


def image_scores(questions: Questions, answers: Answers) -> dict[str, float]:
    """Return 1 or 0 for each question about an image.

    Questions are visited in the order of the file. A parent that comes earlier and was set to 0 passes that on. A
    parent that comes later counts by its own answer alone.

    Args:
        questions: questions of the prompt.
        answers: an answer to each; only "yes" counts.

    Raises:
        KeyError: a question depends on one that is not there.

    Example:
        >>> questions = {"1": {"parents": []}, "2": {"parents": [1]}, "3": {"parents": [2]}}
        >>> image_scores(questions, {"1": "no", "2": "yes", "3": "yes"})
        {'1': 0.0, '2': 0.0, '3': 0.0}
    """
    scores = {number: float(answers[number] == "yes") for number in questions}
    for number, question in questions.items():
        if any(scores[str(parent)] == 0 for parent in question["parents"]):
            scores[number] = 0.0
    return scores


def item_score(
    questions: Questions, answers: Sequence[Answers], *, as_published: bool = False
) -> ItemScore | None:
    """Return the scores of a prompt from the answers for each of its images.

    Args:
        questions: questions of the prompt.
        answers: answers for each image.
        as_published: whether categories count the last image alone and before dependencies, and whether a prompt with a
            question whose parent is not there has no score.

    Returns:
        The scores; None for a prompt without any.
    """
    try:
        scores = [image_scores(questions, one) for one in answers]
    except KeyError:
        if as_published:
            return None
        raise
    categories: dict[str, list[float]] = {}
    if as_published:
        counted = [{number: float(answers[-1][number] == "yes") for number in questions}]
    else:
        counted = scores
    for one in counted:
        for number, value in one.items():
            categories.setdefault(questions[number]["category"], []).append(value)
    return ItemScore([sum(one.values()) / len(one) for one in scores], categories)


def summarize(items: Sequence[ItemScore]) -> dict[str, Any]:
    """Return the score of DPG-Bench and of its categories, in percent.

    Returns:
        `dpg`: mean over prompts of the mean over images. Then each broad category, and in `details` each category in
        detail: means over questions.
    """
    details: dict[str, list[float]] = {}
    broad: dict[str, list[float]] = {}
    for item in items:
        for name, values in item.categories.items():
            details.setdefault(name, []).extend(values)
            broad.setdefault(name.split("-")[0].strip(), []).extend(values)
    total = sum(sum(item.images) / len(item.images) for item in items) / len(items)
    return {
        "dpg": 100 * total,
        **{name: _percent(broad[name]) for name in sorted(broad)},
        "details": {name: _percent(details[name]) for name in sorted(details)},
    }


def _percent(values: Sequence[float]) -> float:
    """Return the mean of values in percent."""
    return 100 * sum(values) / len(values)
