"""Means by category, the layout of categories, and what is said before a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from folders import write_tiny_model
from PIL import Image

import smalti
from smalti.errors import SmaltiError
from smalti.evaluation.category_layout import CategoryLayout
from smalti.evaluation.request import Request
from smalti.evaluation.run import evaluate
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import find_suite
from smalti.evaluation.suites.preference.base import Preference, rating_table, summarize_ratings


@dataclass(frozen=True)
class Bright(Preference, CategoryLayout):
    """Rate how bright images are."""

    scoring_seconds: ClassVar[float | None] = 6.0

    def rate(self, text: str, images: Sequence[Image.Image]) -> list[float]:
        return [round(float(np.asarray(image).mean()), 3) for image in images]


def test_categories_have_means_and_intervals() -> None:
    rows: list[dict[str, Any]] = [
        {"category": "anime", "scores": [float(number % 7)]} for number in range(70)
    ] + [{"category": "photo", "scores": [10.0, 12.0]}]
    found = summarize_ratings(rows)
    assert found["mean"] == pytest.approx((210 + 22) / 72, abs=1e-4)
    assert found["mean_of_categories"] == 7.0 and found["images"] == 72
    anime = found["categories"]["anime"]
    assert anime["mean"] == 3.0 and anime["interval"][0] < 3 < anime["interval"][1]
    # Twice the standard error of 70 numbers with a deviation of 2.
    assert 0.8 < anime["interval"][1] - anime["interval"][0] < 1.1
    assert found["categories"]["photo"] == {"mean": 11.0, "interval": [11.0, 11.0], "images": 2}
    assert "| category photo | 11.0000 | 11.0000 to 11.0000 |" in rating_table(found)
    plain = summarize_ratings([{"category": None, "scores": [1.0]}])
    assert plain == {"mean": 1.0, "images": 1, "intervals": {"mean": [1.0, 1.0]}}


def test_lists_in_a_folder_are_styles_with_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "anime.json").write_text('["a red circle", "a blue circle"]')
    (lists / "photo.json").write_text('["a white circle"]')
    pipe = smalti.load(str(write_tiny_model(tmp_path / "tiny")))
    subject = Subject.of(pipe, pipe.settings.replaced(num_inference_steps=1))
    request = Request(prompts=lists, save=tmp_path / "kept", images_per_prompt=2)
    with caplog.at_level(logging.WARNING, "smalti"):
        found = evaluate(Bright(), request, subject)
    said = [record.getMessage() for record in caplog.records if "scoring" in record.getMessage()]
    assert said == [
        "drawing and then scoring 6 images of 3 prompts; scoring takes about 0.6 min on 1 GPU (an estimate)"
    ]
    names = {str(path.relative_to(tmp_path / "kept")) for path in (tmp_path / "kept").rglob("*.png")}
    assert names == {
        f"{stem}{more}.png" for stem in ("anime/00000", "anime/00001", "photo/00000") for more in ("", "-1")
    }
    # The folder alone is scored the same, and with the lists beside it.
    assert evaluate(Bright(), Request(folder=tmp_path / "kept")).scores == found.scores
    (tmp_path / "kept" / "prompts.jsonl").unlink()
    again = evaluate(Bright(), Request(folder=tmp_path / "kept", prompts=lists))
    assert again.scores == found.scores
    with pytest.raises(SmaltiError, match="leave out --rewrite"):
        evaluate(Bright(), Request(folder=tmp_path / "kept", rewrite="command:cat"))
    # What was drawn elsewhere and in part: JPEG files, one style.
    for path in (tmp_path / "kept" / "photo").iterdir():
        path.unlink()
    Image.new("RGB", (8, 8), "white").save(tmp_path / "kept" / "photo" / "00000.jpg")
    part = evaluate(Bright(), Request(folder=tmp_path / "kept", prompts=lists)).scores
    assert part["images"] == 5 and part["categories"]["photo"]["mean"] > 250


def test_names_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    prompt = {"prompt": "a", "category": "..", "name": "x"}
    with pytest.raises(SmaltiError, match="category must be the name of a file"):
        Bright().image_path(tmp_path, 0, prompt, 0)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("clip-score", "clip"),
        ("pickscore", "clip"),
        ("hpsv2", "clip"),
        ("imagereward", "weights"),
        ("hpsv3", "weights"),
    ],
)
def test_weights_must_be_named(name: str, option: str) -> None:
    with pytest.raises(
        SmaltiError, match=f"{option} must be a folder with .*(or a hub id such as|convert_scorer.py)"
    ):
        find_suite(name).describe()  # type: ignore[attr-defined]
