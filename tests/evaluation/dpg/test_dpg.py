"""DPG-Bench: the published script's scores from recorded answers, with and without its faults; files; layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dpg_official
import numpy as np
import pytest
from dpg_files import answer, write_answers, write_questions
from folders import write_tiny_model
from PIL import Image

import smalti
from smalti.errors import SmaltiError
from smalti.evaluation.request import Request
from smalti.evaluation.run import evaluate
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import find_suite
from smalti.evaluation.suites.dpg import layout, vqa
from smalti.evaluation.suites.dpg.questions import read_questions
from smalti.evaluation.suites.dpg.rules import image_scores, item_score


def files(folder: Path, **more: Any) -> tuple[Path, Path, list[dict[str, Any]]]:
    questions = write_questions(folder / "dpg.csv", **more)
    prompts = [item.as_prompt() for item in read_questions(questions)]
    return questions, write_answers(folder / "answers.jsonl", prompts), prompts


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("first_is_parent", [False, True])
def test_scores_are_the_published_ones(published: bool, first_is_parent: bool, tmp_path: Path) -> None:
    for seed in range(5):
        questions, answers, _ = files(tmp_path, seed=seed, first_is_parent=first_is_parent)
        official = dpg_official.benchmark(questions, answer, 4, published)
        suite = find_suite(
            f"dpg:questions={questions},answers={answers},as_published={str(published).lower()}"
        )
        found = evaluate(suite, Request())
        details = official.pop("details")
        assert found.scores["details"] == pytest.approx(details, abs=1e-9)
        assert {name: found.scores[name] for name in official} == pytest.approx(official, abs=1e-9)
        # A lost first question on which another depends leaves out its whole prompt.
        assert found.scores["skipped"] == (published and first_is_parent)
        low, high = found.scores["intervals"]["dpg"]
        assert low < found.scores["dpg"] < high and found.scores["images"] == 4 * found.scores["prompts"]
        assert found.metadata["scorer"] == {"name": "recorded answers"}
        table = suite.table(found.scores)
        assert f"| dpg | {found.scores['dpg']:.4f} | {low:.4f} to {high:.4f} |" in table
        assert "| entity - whole (detail) | " in table


def test_the_faults_change_the_scores(tmp_path: Path) -> None:
    questions, answers, _ = files(tmp_path)
    scores = [
        evaluate(
            find_suite(f"dpg:questions={questions},answers={answers},as_published={flag}"), Request()
        ).scores
        for flag in ("false", "true")
    ]
    assert scores[0]["dpg"] != scores[1]["dpg"] and scores[0]["entity"] < scores[1]["entity"]


def test_dependencies_chain_in_the_order_of_the_file() -> None:
    chain = {str(key): {"parents": [key - 1] if key > 1 else [], "category": "a"} for key in (1, 2, 3)}
    assert image_scores(chain, {"1": "no", "2": "yes", "3": "yes"}) == {"1": 0, "2": 0, "3": 0}
    assert image_scores(chain, {"1": "yes", "2": "no", "3": "yes"}) == {"1": 1, "2": 0, "3": 0}
    # A parent that comes later counts by its own answer alone.
    backwards = {"1": {"parents": [2]}, "2": {"parents": [3]}, "3": {"parents": []}}
    assert image_scores(backwards, {"1": "yes", "2": "yes", "3": "no"}) == {"1": 1, "2": 0, "3": 0}
    lost = {"2": {"parents": [1], "category": "a"}}
    assert item_score(lost, [{"2": "yes"}], as_published=True) is None
    with pytest.raises(KeyError):
        item_score(lost, [{"2": "yes"}])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("item_id,", "name,", "it lacks item_id"),
        ("item0,", "../x,", "row 1: item_id must be the name of a file"),
        (",,1,0,", ",,one,0,", "row 1: proposition_id and dependency must be whole numbers"),
        (",,1,0,", ",,2,0,", "row 2: proposition_id 2 of item0 occurs twice"),
        (",,1,0,", ",,1,99,", "question 1 of item0 depends on 99, which it lacks"),
    ],
)
def test_wrong_questions_are_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = write_questions(tmp_path / "dpg.csv", count=2)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(SmaltiError) as caught:
        read_questions(path)
    assert message in str(caught.value)


def test_wrong_answers_are_named(tmp_path: Path) -> None:
    questions, answers, _ = files(tmp_path, count=3)
    lines = answers.read_text().splitlines()
    for changed, message in (
        (lines[:-4], "has 2 of the 3 prompts"),
        ([*lines, lines[0]], "line 13: image 0 of item0 occurs twice"),
        (lines[1:], "images of item0 must be numbered from 0"),
        (["{}"], "line 1: a line must have item_id, image and answers"),
        (
            [json.dumps({"item_id": "item0", "image": 0, "answers": {}})],
            "answers of item0 must have one to question 1",
        ),
    ):
        answers.write_text("\n".join(changed))
        partial = "false" if "prompts" in message else "true"
        with pytest.raises(SmaltiError) as caught:
            evaluate(find_suite(f"dpg:questions={questions},answers={answers},partial={partial}"), Request())
        assert message in str(caught.value)
    with pytest.raises(SmaltiError, match="questions must be DPG-Bench's file"):
        find_suite("dpg").prompts(4, 0)


class Redness:
    """Stand-in for a model that answers: "yes" for red images."""

    def answer(self, image: Image.Image, questions: dict[str, str]) -> dict[str, str]:
        red = np.asarray(image)[..., 0].mean() > 128
        return {number: "yes" if red else "no" for number in questions}


@pytest.fixture
def red(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setattr(vqa, "load_answerer", lambda *_: Redness())
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.json").write_text("{}")
    questions = write_questions(tmp_path / "dpg.csv", count=3)
    return f"dpg:questions={questions},vqa={tmp_path / 'net'}"


def test_squares_are_cut_into_their_images(red: str, tmp_path: Path) -> None:
    colors = ["red", "black", "black", "red"]
    images = [Image.new("RGB", (6, 4), color) for color in colors]
    assert [image.getpixel((1, 1)) for image in layout.cut_grid(layout.make_grid(images), 4)] == [
        image.getpixel((1, 1)) for image in images
    ]
    (tmp_path / "drawn").mkdir()
    for index in range(3):
        layout.make_grid(images).save(tmp_path / "drawn" / f"item{index}.png")
    scores = evaluate(find_suite(red), Request(folder=tmp_path / "drawn", images_per_prompt=4)).scores
    assert scores["dpg"] == 50 and scores["images"] == 12 and scores["prompts"] == 3
    # With one image a prompt the file is that image.
    images[0].save(tmp_path / "drawn" / "item1.png")
    images[1].save(tmp_path / "drawn" / "item2.png")
    images[0].save(tmp_path / "drawn" / "item0.png")
    scores = evaluate(find_suite(red), Request(folder=tmp_path / "drawn", images_per_prompt=1)).scores
    assert scores["dpg"] == pytest.approx(200 / 3)
    (tmp_path / "drawn" / "item2.png").unlink()
    with pytest.raises(SmaltiError, match="has 2 of the 3 prompts .* --set partial=true"):
        evaluate(find_suite(red), Request(folder=tmp_path / "drawn"))
    assert (
        evaluate(find_suite(red + ",partial=true"), Request(folder=tmp_path / "drawn")).scores["prompts"] == 2
    )
    Image.new("RGB", (7, 4)).save(tmp_path / "drawn" / "item2.png")
    with pytest.raises(SmaltiError, match=r"item2.png: images must lie in a square of two by two; 7×4"):
        evaluate(find_suite(red), Request(folder=tmp_path / "drawn", images_per_prompt=4))


def test_a_model_draws_into_the_layout(red: str, tmp_path: Path) -> None:
    pipe = smalti.load(write_tiny_model(tmp_path / "tiny"))
    subject = Subject.of(pipe, pipe.settings.replaced(num_inference_steps=2))
    request = Request(images=8, images_per_prompt=4, save=tmp_path / "drawn")
    found = evaluate(find_suite(red), request, subject)
    assert sorted(path.name for path in (tmp_path / "drawn" / "grids").iterdir()) == [
        "item0.png",
        "item1.png",
    ]
    assert len(list((tmp_path / "drawn" / "images").iterdir())) == 8 and found.metadata["subset"]
    again = evaluate(
        find_suite(red + ",partial=true"), Request(folder=tmp_path / "drawn", images_per_prompt=4)
    )
    assert again.scores == found.scores
    assert evaluate(find_suite(red), request, subject).scores == found.scores
