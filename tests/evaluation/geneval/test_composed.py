"""Composed images whose right result is known: counting, colour, position and exclusion, each right and wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

from geneval_networks import SHAPES, ColorWords, Palette, Segmenter, compose  # noqa: E402
from PIL import Image  # noqa: E402

from smalti.evaluation.clip import Clip
from smalti.evaluation.folder import write_sample  # noqa: E402
from smalti.evaluation.request import Request  # noqa: E402
from smalti.evaluation.run import evaluate  # noqa: E402
from smalti.evaluation.suite import find_suite  # noqa: E402
from smalti.evaluation.suites.geneval import colors, detector  # noqa: E402
from smalti.evaluation.suites.geneval.rules import CLASSES, Found  # noqa: E402


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Stand-ins in place of the networks; the text of a suite that uses them."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.json").write_text("{}")
    monkeypatch.setattr(detector, "load_detector", lambda *_: detector.Detector(Segmenter(), CLASSES))
    monkeypatch.setattr(colors, "load_colors", lambda *_: colors.ColorReader(Clip(Palette(), ColorWords())))
    return f"geneval:detector={tmp_path / 'net'},clip={tmp_path / 'net'}"


def one(name: str, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": 1, **more}


TWO_DOGS = {"tag": "counting", "include": [one("dog") | {"count": 2}], "exclude": [one("dog") | {"count": 3}]}
RED_TIE = {"tag": "colors", "include": [one("tie", color="red")]}
ABOVE = {"tag": "position", "include": [one("dog"), one("bench", position=["above", 0])]}
DOG, TIE, BENCH = ("dog", "brown", (60, 150)), ("tie", "red", (160, 100)), ("bench", "blue", (60, 40))


@pytest.mark.parametrize(
    ("prompt", "things", "reason"),
    [
        (TWO_DOGS, [DOG, ("dog", "black", (250, 150))], ""),
        (TWO_DOGS, [DOG], "expected dog>=2, found 1"),
        # Exclusion: a third dog is too much.
        (
            TWO_DOGS,
            [DOG, ("dog", "black", (250, 150)), ("dog", "pink", (250, 50))],
            "expected dog<3, found 3",
        ),
        (RED_TIE, [TIE], ""),
        (RED_TIE, [("tie", "green", (160, 100))], "expected red tie>=1, found green"),
        (ABOVE, [DOG, BENCH], ""),
        (ABOVE, [DOG, ("bench", "blue", (250, 150))], "expected bench above target, found right of"),
        (ABOVE, [BENCH], "expected dog>=1, found 0; no target for bench to be above"),
        ({"tag": "single_object", "include": [one("tie")]}, [TIE], ""),
        ({"tag": "two_object", "include": [one("tie"), one("bench")]}, [TIE, BENCH], ""),
        (
            {"tag": "two_object", "include": [one("tie"), one("bench")]},
            [TIE, DOG],
            "expected bench>=1, found 0",
        ),
        (
            {"tag": "color_attr", "include": [one("tie", color="red"), one("bench", color="blue")]},
            [TIE, BENCH],
            "",
        ),
        (
            {"tag": "color_attr", "include": [one("tie", color="blue"), one("bench", color="red")]},
            [TIE, BENCH],
            "expected blue tie>=1, found red; expected red bench>=1, found blue",
        ),
    ],
)
def test_verdicts(networks: str, prompt: dict[str, Any], things: list[Any], reason: str) -> None:
    row = find_suite(networks).score({**prompt, "prompt": "?"}, [compose(*things)])
    assert row["reasons"] == [reason] and row["correct"] == [not reason]


@pytest.mark.parametrize("size", [(320, 200), (200, 320), (96, 96), (1500, 300)])
def test_boxes_are_those_of_the_things(size: tuple[int, int]) -> None:
    x, y = size[0] // 2, size[1] // 3
    found = detector.Detector(Segmenter(), CLASSES).detect(compose(("dog", "red", (x, y)), size=size))
    assert list(found) == ["dog"] and len(found["dog"]) == 1
    item = found["dog"][0]
    width, height = SHAPES["dog"]
    true = np.array([x - width // 2, y - height // 2, x + width // 2, y + height // 2])
    assert np.abs(np.array(item.box) - true).max() <= 2
    assert item.mask is not None and item.mask.shape == (size[1], size[0])
    assert item.score == pytest.approx(1, abs=0.05)


def test_an_unsure_detection_counts_except_in_counting(
    networks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsure = detector.Detector(Segmenter(certainty=0.5), CLASSES)  # about 0.6
    monkeypatch.setattr(detector, "load_detector", lambda *_: unsure)
    suite, image = find_suite(networks), compose(DOG)
    score = unsure.detect(image)["dog"][0].score
    assert 0.3 < score < 0.9
    assert suite.score({"tag": "single_object", "include": [one("dog")]}, [image])["correct"] == [True]
    assert suite.score({"tag": "counting", "include": [one("dog")]}, [image])["correct"] == [False]


def test_crops_show_the_thing_on_grey() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:20, 10:15] = True
    cut = np.asarray(colors.crop(Image.new("RGB", (40, 40), "red"), Found((10, 10, 20, 20), 1, mask)))
    assert cut.shape == (10, 10, 3)
    assert (cut[:, :5] == (255, 0, 0)).all() and (cut[:, 5:] == 0x99).all()
    assert colors.prepare(Image.new("RGB", (50, 20)), 16).shape == (3, 16, 16)


def test_a_folder_is_scored(networks: str, tmp_path: Path) -> None:
    for index, (prompt, images) in enumerate(
        [(TWO_DOGS, [compose(DOG)]), (RED_TIE, [compose(TIE), compose(DOG)]), (ABOVE, [compose(DOG, BENCH)])]
    ):
        write_sample(tmp_path / "drawn", index, {**prompt, "prompt": f"prompt {index}"}, images)
    found = evaluate(find_suite(networks), Request(folder=tmp_path / "drawn"))
    scores = found.scores
    assert (scores["counting"], scores["colors"], scores["position"], scores["mean"]) == (0, 0.5, 1, 0.5)
    assert (
        scores["images"] == 4 and scores["prompts"] == 3 and scores["correct_prompts"] == pytest.approx(2 / 3)
    )
    scorer = found.metadata["scorer"]
    assert scorer["name"] == "HF detector" and scorer["detector_revision"] == "folder"
    assert (scorer["threshold"], scorer["counting_threshold"]) == (0.3, 0.9)
    assert json.loads(json.dumps(found.metadata))["packages"]["torch"]
