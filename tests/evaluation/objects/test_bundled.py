"""The scorer that comes with the package."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from smalti.evaluation.suites.objects.detector import find_things
from smalti.evaluation.suites.objects.scorer import WEIGHTS, Scorer, load_scorer
from smalti.evaluation.suites.objects.suite import Objects
from smalti.worlds.objects.nouns import GENEVAL_NOUNS


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load_scorer(WEIGHTS)


def discs(count: int) -> np.ndarray:
    """Return an image (256, 256, 3) of so many red discs on a light ground."""
    image = Image.new("RGB", (256, 256), (225, 232, 240))
    draw = ImageDraw.Draw(image)
    for left, top in [(20, 20), (150, 20), (20, 150), (150, 150)][:count]:
        draw.ellipse((left, top, left + 86, top + 86), fill=(200, 30, 30))
    return np.asarray(image)


def test_it_claims_nouns_and_classes_of_geneval(scorer: Scorer) -> None:
    classes = scorer.knowledge.classes
    assert len(classes) > 500 and sum(name in classes for name in GENEVAL_NOUNS) > 40
    assert {"banana", "car", "umbrella"} <= set(classes)
    assert set(scorer.knowledge.vocabulary.nouns) <= set(classes)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_it_counts_things_and_names_their_colour(scorer: Scorer, count: int) -> None:
    things = find_things(discs(count), scorer)
    assert [thing.color for thing in things] == ["red"] * count
    for thing in things:
        left, top, right, bottom = thing.box
        assert right - left == pytest.approx(86 / 256, abs=0.04)
        assert bottom - top == pytest.approx(86 / 256, abs=0.04)


def test_its_prompts_ask_for_what_it_claims() -> None:
    suite = Objects()
    for prompt in suite.prompts(60, 3):
        suite.check_prompt(prompt)
        assert suite.score(prompt, [discs(2)]).unclaimed == ()
