"""GenEval's protocol over detections, whatever detector made them."""

from __future__ import annotations

import pytest

from smalti.errors import SmaltiError
from smalti.evaluation import geneval
from smalti.evaluation.geneval import Detection, Row


def thing(name: str, color: str | None = None, x: float = 0.5, y: float = 0.5) -> Detection:
    return Detection(name, color, (x - 0.1, y - 0.1, x + 0.1, y + 0.1), 0.9)


def test_excluded_classes_are_counted() -> None:
    prompt = {"include": [{"class": "ball", "count": 1}], "exclude": [{"class": "ball", "count": 2}]}
    assert geneval.is_correct(prompt, [thing("ball"), thing("cat", x=0.2)])
    assert not geneval.is_correct(prompt, [thing("ball"), thing("ball", x=0.2)])


def test_a_thing_without_colour_has_no_wanted_colour() -> None:
    prompt = {"include": [{"class": "cat", "count": 1, "color": "red"}]}
    assert geneval.is_correct(prompt, [thing("cat", "red")])
    assert not geneval.is_correct(prompt, [thing("cat")])


def test_scores_by_task_and_pairs() -> None:
    rows = [
        Row("counting", False, [True, False]),
        Row("colors", True, [True]),
        Row("colors", False, [False, True]),
    ]
    scores = geneval.summarize(rows)
    assert (scores["counting"], scores["colors"], scores["mean"]) == (0.5, 0.6667, 0.5834)
    assert (scores["held_out"], scores["seen"], scores["images"]) == (1.0, 0.5, 5)
    assert scores["position"] is None
    with pytest.raises(SmaltiError, match="no images to score"):
        geneval.summarize([])


def test_names_may_be_any_text_or_those_of_a_list() -> None:
    prompt = {"tag": "colors", "prompt": "x", "include": [{"class": "dog", "count": 1}]}
    geneval.check_prompt(prompt, None, ())
    with pytest.raises(SmaltiError, match="class must be one of .'cat'.*'dog'"):
        geneval.check_prompt(prompt, ["cat"], ())
    with pytest.raises(SmaltiError, match="whole number, not True"):
        geneval.check_prompt({**prompt, "include": [{"class": "dog", "count": True}]}, None, ())


def test_survival_counts_what_was_correct_before() -> None:
    before, after = (
        Row("colors", False, [True, False, True, True]),
        Row("colors", False, [True, True, False, True]),
    )
    assert geneval.survived(before, after) == [True, False, True]
