"""GenEval over scenes: prompts, rules, folders, and that the ruler measures."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage")

from smalti.errors import SmaltiError  # noqa: E402
from smalti.evaluation.suites.scenes.detector import Detection  # noqa: E402
from smalti.evaluation.suites.scenes.prompts import (  # noqa: E402
    TAGS,
    check_prompt,
    ground_truth,
    read_prompts,
    scene_prompts,
    shuffle,
    write_prompts,
)
from smalti.evaluation.suites.scenes.score import is_correct, score_folder, score_images, write_sample  # noqa: E402
from smalti.worlds.scenes.scene import HELD_OUT  # noqa: E402

KEYS = [*TAGS, "mean", "held_out", "seen", "images", "seconds"]


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


def test_the_ruler_measures() -> None:
    prompts = scene_prompts(36)
    pictures = list(ground_truth(prompts, size=128))
    true = score_images(prompts, pictures)
    assert list(true) == KEYS
    assert true["mean"] >= 0.98 and true["held_out"] >= 0.95 and true["images"] == len(prompts)
    wrong = score_images(shuffle(prompts), pictures)
    assert wrong["mean"] < 0.10 and wrong["held_out"] < 0.10


def test_shuffling_leaves_nothing_in_place() -> None:
    prompts = scene_prompts(5)
    other = shuffle(prompts, seed=3)
    assert all(a is not b for a, b in zip(prompts, other, strict=True))
    assert sorted(map(id, prompts)) == sorted(map(id, other))
    with pytest.raises(SmaltiError, match="at least 2"):
        shuffle(prompts[:1])


def test_a_folder_in_genevals_layout(tmp_path: Path) -> None:
    prompts = scene_prompts(1)
    for index, (prompt, picture) in enumerate(zip(prompts, ground_truth(prompts, size=128), strict=True)):
        write_sample(tmp_path, index, prompt, [picture, Image.new("RGB", (64, 64), "grey")])
    assert (tmp_path / "00000" / "samples" / "0001.png").exists()
    assert json.loads((tmp_path / "00003" / "metadata.jsonl").read_text())["tag"] == "colors"
    result = score_folder(tmp_path)
    assert result["images"] == 12 and result["mean"] == 0.5 and list(result) == KEYS
    assert score_folder(tmp_path, shuffle_seed=0)["mean"] < 0.5


def test_missing_tasks_are_none_and_left_out_of_the_mean() -> None:
    prompts = [prompt for prompt in scene_prompts(2) if prompt["tag"] == "two_object"]
    result = score_images(prompts, ground_truth(prompts, size=128))
    assert result["two_object"] == result["mean"] == 1.0
    assert result["counting"] is None and result["held_out"] is None and result["seen"] is None


def test_prompts_are_written_and_read_back(tmp_path: Path) -> None:
    prompts = scene_prompts(2)
    write_prompts(tmp_path / "evaluation_metadata.jsonl", prompts)
    assert read_prompts(tmp_path / "evaluation_metadata.jsonl") == prompts


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
        read_prompts(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(SmaltiError, match="per_tag"):
        scene_prompts(0)
    with pytest.raises(SmaltiError, match="cannot read"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(SmaltiError, match="not a folder"):
        score_folder(tmp_path / "none")
    with pytest.raises(SmaltiError, match="00000"):
        score_folder(tmp_path)
    prompts = scene_prompts(1)
    picture = np.full((64, 64, 3), 128, dtype=np.uint8)
    with pytest.raises(SmaltiError, match="fewer"):
        score_images(prompts, [picture])
    with pytest.raises(SmaltiError, match="more"):
        score_images(prompts[:1], [picture, picture])
    with pytest.raises(SmaltiError, match="no pictures"):
        score_images([], [])
    write_sample(tmp_path, 0, prompts[0], [])
    with pytest.raises(SmaltiError, match="samples has no .png"):
        score_folder(tmp_path)
    (tmp_path / "00000" / "samples" / "0000.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(SmaltiError, match="0000.png is not a readable picture"):
        score_folder(tmp_path)
