"""GenEval's rules here and in the official scripts: the same verdicts and the same summary on recorded detections."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geneval_official import official_objects, official_position, official_summary, official_verdict

from smalti.errors import SmaltiError
from smalti.evaluation.request import Request
from smalti.evaluation.run import evaluate
from smalti.evaluation.suite import find_suite
from smalti.evaluation.suites.geneval.rules import CLASSES, COLORS, Found, judge, keep, relative_position
from smalti.worlds.tasks import TAGS

NAMES = ("dog", "cat", "bench")


def prompt_of(tag: str, draw: random.Random) -> dict[str, Any]:
    first, second = draw.sample(NAMES, 2)
    include: list[dict[str, Any]] = [{"class": first, "count": 1}]
    prompt: dict[str, Any] = {"tag": tag, "include": include, "prompt": f"{tag} {first} {second}"}
    if tag == "counting":
        include[0]["count"] = count = draw.randint(2, 4)
        prompt["exclude"] = [{"class": first, "count": count + 1}]
    if tag in ("two_object", "position", "color_attr"):
        include.append({"class": second, "count": 1})
    if tag in ("colors", "color_attr"):
        for entry in include:
            entry["color"] = draw.choice(COLORS[:3])
    if tag == "position":
        include[1]["position"] = [draw.choice(["left of", "right of", "above", "below"]), 0]
    return prompt


def detections(draw: random.Random) -> dict[str, np.ndarray]:
    found = {}
    for name in NAMES:
        rows = []
        for _ in range(draw.choice([0, 1, 1, 1, 2, 3, 4, 20])):
            left, top = draw.uniform(0, 400), draw.uniform(0, 400)
            score = draw.choice([0.25, 0.3, 0.35, 0.9, 0.95, draw.random()])
            rows.append([left, top, left + draw.uniform(10, 110), top + draw.uniform(10, 110), score])
        found[name] = np.array(rows).reshape(-1, 5)
    return found


def color_of(box: Any) -> str:
    return COLORS[int(box[0]) % 3]


def results(count: int = 600) -> list[dict[str, Any]]:
    """Lines of the official detector for random detections of all six tasks."""
    lines = []
    for index in range(count):
        draw = random.Random(f"geneval {index}")
        prompt = prompt_of(TAGS[index // 2 % 6], random.Random(f"prompt {index // 2}"))
        objects = official_objects(detections(draw), prompt["tag"])
        details = {name: [box.tolist() for box in boxes] for name, boxes in objects.items()}
        lines.append(
            {
                "filename": f"{index // 2:05d}/samples/{index % 2:04d}.png",
                "tag": prompt["tag"],
                "prompt": prompt["prompt"],
                "correct": official_verdict(objects, prompt, color_of),
                "reason": "",
                "metadata": json.dumps(prompt),
                "details": json.dumps(details),
            }
        )
    return lines


def test_verdicts_are_the_official_ones() -> None:
    seen: dict[tuple[str, bool], int] = {}
    for index in range(3000):
        draw = random.Random(f"verdict {index}")
        prompt, found = prompt_of(TAGS[index % 6], draw), detections(draw)
        official = official_verdict(official_objects(found, prompt["tag"]), prompt, color_of)
        own = {name: [Found(tuple(row[:4]), row[4]) for row in rows] for name, rows in found.items()}
        verdict = judge(
            prompt, keep(own, prompt["tag"]), lambda items, name: [color_of(item.box) for item in items]
        )
        assert verdict.correct == official and bool(verdict.reasons) != official
        seen[prompt["tag"], official] = seen.get((prompt["tag"], official), 0) + 1
    assert len(seen) == 12 and min(seen.values()) > 10  # every task, right and wrong


def test_positions_are_the_official_ones() -> None:
    for index in range(2000):
        draw = random.Random(f"position {index}")
        a, b = (
            [draw.randint(0, 9), draw.randint(0, 9), draw.randint(10, 19), draw.randint(10, 19)] for _ in "ab"
        )
        assert relative_position(Found(tuple(a), 1), Found(tuple(b), 1)) == official_position(
            np.array(a), np.array(b)
        )
    same = Found((0, 0, 4, 4), 1)
    assert relative_position(same, same) == set()


def test_the_summary_of_results_is_the_official_one(tmp_path: Path) -> None:
    lines = results()
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = evaluate(find_suite(f"geneval:results={path}"), Request())
    official = official_summary(lines)
    assert {name: found.scores[name] for name in official} == pytest.approx(official, abs=1e-12)
    assert list(official)[:6] == list(TAGS)
    # Verdicts that follow from boxes alone are the same by the rules here.
    assert found.scores["rechecked"] == 400 and found.scores["differing"] == 0
    for name in (*TAGS, "mean"):
        low, high = found.scores["intervals"][name]
        assert low <= found.scores[name] <= high and high - low < 0.3
    assert found.metadata["scorer"] == {"name": "official results"}
    lines[4]["correct"] = not lines[4]["correct"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    suite = find_suite(f"geneval:results={path}")
    scores = evaluate(suite, Request()).scores
    assert scores["differing"] == 1
    assert "| mean | " in suite.table(scores) and "| differing | 1 | – |" in suite.table(scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": 1}, "line 1: correct must be true or false"),
        ({"metadata": {}}, "line 1: metadata must be the prompt as JSON text"),
        ({"metadata": "{"}, "line 1: metadata is not JSON"),
        ({"tag": "counting"}, "line 1: tag must be that of the prompt, 'single_object', not 'counting'"),
        ({"details": "[]"}, "line 1: details must be JSON text with lists"),
        ({"details": '{"cat": [[1, 2, 3, 4]]}'}, "line 1: details must be JSON text with lists"),
    ],
)
def test_wrong_results_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({**results(1)[0], **change}) + "\n")
    with pytest.raises(SmaltiError) as caught:
        evaluate(find_suite(f"geneval:results={path}"), Request())
    assert message in str(caught.value)
    path.write_text("\n")
    with pytest.raises(SmaltiError, match="holds no results"):
        evaluate(find_suite(f"geneval:results={path}"), Request())
    with pytest.raises(SmaltiError, match="which needs no images: leave out --folder"):
        evaluate(find_suite(f"geneval:results={path}"), Request(folder=tmp_path))


def test_names_are_those_of_the_prompts() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 80 and CLASSES[0] == "person" and CLASSES[-1] == "toothbrush"
