"""GenEval over scenes: prompts, rules, and that the scorer measures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage")

from smalti.errors import SmaltiError  # noqa: E402
from smalti.evaluation.folder import read_prompts  # noqa: E402
from smalti.evaluation.geneval import Detection, is_correct  # noqa: E402
from smalti.evaluation.run import shuffle  # noqa: E402
from smalti.evaluation.suites.scenes.prompts import (  # noqa: E402
    check_prompt,
    ground_truth,
    scene_prompts,
)
from smalti.evaluation.suites.scenes.score import score_images  # noqa: E402
from smalti.worlds.scenes.scene import HELD_OUT  # noqa: E402
from smalti.worlds.tasks import TAGS  # noqa: E402

KEYS = [*TAGS, "mean", "held_out", "seen", "images"]


def seen(shape: str, color: str = "red", x: float = 0.5, y: float = 0.5, score: float = 0.9) -> Detection:
    return Detection(shape, color, (x - 0.1, y - 0.1, x + 0.1, y + 0.1), score)


def test_prompts_are_deterministic_distinct_and_of_every_task() -> None:
    prompts = scene_prompts(30)
    assert prompts == scene_prompts(30) and prompts != scene_prompts(30, seed=1)
    assert [prompt["tag"] for prompt in prompts] == [tag for tag in TAGS for _ in range(30)]
    texts = Counter(prompt["prompt"] for prompt in prompts)
    assert {count for text, count in texts.items() if len(text.split()) > 5} == {1}
    for prompt in prompts:
        check_prompt(prompt)
        pairs = {(entry["class"], entry.get("color")) for entry in prompt["include"]}
        assert prompt["held_out"] == bool(pairs & HELD_OUT)
        assert ("exclude" in prompt) == (prompt["tag"] == "counting")
    flagged = Counter(prompt["tag"] for prompt in prompts if prompt["held_out"])
    assert flagged == {"colors": 6, "color_attr": 6}


def test_counting_is_exact() -> None:
    prompt = {"tag": "counting", "include": [{"class": "star", "count": 2}]}
    prompt["exclude"] = [{"class": "star", "count": 3}]
    assert [is_correct(prompt, [seen("star")] * number) for number in range(5)] == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert is_correct(prompt, [seen("star"), seen("star"), seen("circle")])


def test_objects_and_colors() -> None:
    two = {"include": [{"class": "star", "count": 1}, {"class": "heart", "count": 1}]}
    assert is_correct(two, [seen("star"), seen("heart")])
    assert not is_correct(two, [seen("star"), seen("star")])
    colored = {
        "include": [
            {"class": "star", "count": 1, "color": "red"},
            {"class": "heart", "count": 1, "color": "blue"},
        ]
    }
    assert is_correct(colored, [seen("star", "red"), seen("heart", "blue")])
    assert not is_correct(colored, [seen("star", "blue"), seen("heart", "red")])
    # The best detection of a class decides.
    assert not is_correct(
        {"include": [{"class": "star", "count": 1, "color": "red"}]},
        [seen("star", "blue"), seen("star", "red")],
    )


def test_position() -> None:
    include = [{"class": "square", "count": 1}, {"class": "circle", "count": 1, "position": ["left of", 0]}]
    square = seen("square", x=0.6)
    assert is_correct({"include": include}, [seen("circle", x=0.2), square])
    assert not is_correct({"include": include}, [seen("circle", x=0.9), square])
    assert not is_correct({"include": include}, [seen("circle", x=0.6, y=0.1), square])
    assert not is_correct({"include": include}, [seen("circle", x=0.2)])


@pytest.mark.slow
def test_the_scorer_measures() -> None:
    prompts = scene_prompts(36)
    images = list(ground_truth(prompts, size=128))
    true = score_images(prompts, images)
    assert list(true) == KEYS
    assert true["mean"] >= 0.98 and true["held_out"] >= 0.95 and true["images"] == len(prompts)
    wrong = score_images(shuffle(prompts), images)
    assert wrong["mean"] < 0.10 and wrong["held_out"] < 0.10


def test_missing_tasks_are_none_and_left_out_of_the_mean() -> None:
    prompts = [prompt for prompt in scene_prompts(2) if prompt["tag"] == "two_object"]
    result = score_images(prompts, ground_truth(prompts, size=128))
    assert result["two_object"] == result["mean"] == 1.0
    assert result["counting"] is None and result["held_out"] is None and result["seen"] is None


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "no prompts"),
        ("{", "line 1 is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"tag": "poetry", "prompt": "x", "include": []}', "poetry"),
        ('{"tag": "colors", "include": []}', "prompt must be text"),
        ('{"tag": "colors", "prompt": "x", "include": []}', "at least one object"),
        ('{"tag": "colors", "prompt": "x", "include": [{"class": "dog", "count": 1}]}', "dog"),
        ('{"tag": "colors", "prompt": "x", "include": [{"class": "star", "count": "1"}]}', "count"),
        ('{"tag": [], "prompt": "x", "include": []}', r"tag must be one of .*, not \[\]"),
        ('{"tag": "colors", "prompt": "x", "include": [{"class": ["star"], "count": 1}]}', "class must be"),
        (
            '{"tag": "colors", "prompt": "x", "include": [{"class": "star", "count": 1, "color": ["red"]}]}',
            "color must be",
        ),
        (
            '{"tag": "position", "prompt": "x", "include": [{"class": "star", "count": 1}, '
            '{"class": "star", "count": 1, "position": [["above"], 0]}]}',
            "position must be",
        ),
        (
            '{"tag": "colors", "prompt": "x", "include": [{"class": "star", "count": 1, "color": "teal"}]}',
            "teal",
        ),
        (
            '{"tag": "position", "prompt": "x", '
            '"include": [{"class": "star", "count": 1, "position": ["above", 0]}]}',
            "position",
        ),
    ],
)
def test_wrong_prompts_are_named(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text(line)
    with pytest.raises(SmaltiError, match=named) as caught:
        read_prompts(path, check_prompt)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_input_is_named() -> None:
    with pytest.raises(SmaltiError, match="per_tag"):
        scene_prompts(0)
    prompts = scene_prompts(1)
    image = np.full((64, 64, 3), 128, dtype=np.uint8)
    with pytest.raises(SmaltiError, match="fewer"):
        score_images(prompts, [image])
    with pytest.raises(SmaltiError, match="more"):
        score_images(prompts[:1], [image, image])
    with pytest.raises(SmaltiError, match="no images"):
        score_images([], [])
