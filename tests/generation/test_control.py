"""A generation that is told something between two steps: images that are dropped, previews that come and go."""

from __future__ import annotations

import pytest
import torch
from folders import write_tiny_model

import smalti

PROMPTS = ["a red circle", "a blue square", "two dogs", "one cat"]


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return smalti.load(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.mark.parametrize("budget", ["shift:5", "adaptive"])
@pytest.mark.parametrize("order", ["halton", "confidence"])
def test_dropping_an_image_changes_no_other(pipe, budget, order) -> None:
    settings = pipe.settings.replaced(
        num_inference_steps=8, budget=budget, order=order, revision="threshold:0.6"
    )
    alone = [pipe.start(text, settings, seed=9).output("tokens").tokens[0] for text in PROMPTS]
    generation = pipe.start(PROMPTS, settings, seed=[9] * 4)
    for step in generation:
        if step.index == 2:
            generation.drop(1)
        if step.index == 4:
            generation.drop(3)
    tokens = generation.output("tokens").tokens
    assert torch.equal(tokens[0], alone[0])
    assert torch.equal(tokens[2], alone[2])


def test_a_dropped_image_is_not_worked_on(pipe) -> None:
    generation = pipe.start(PROMPTS[:2], pipe.settings.replaced(num_inference_steps=6), seed=[0, 1])
    first = next(generation)
    generation.drop(0)
    rest = list(generation)
    assert not any(bool(step.active[0]) for step in rest)
    assert not any(bool(step.probability[0].any()) for step in rest)
    assert first.active.all()


def test_a_generation_ends_when_all_are_dropped(pipe) -> None:
    generation = pipe.start(PROMPTS[:2], pipe.settings.replaced(num_inference_steps=8), seed=[0, 1])
    next(generation)
    generation.drop(0)
    generation.drop(1)
    assert len(list(generation)) <= 1


def test_previews_can_be_switched_between_steps(pipe) -> None:
    settings = pipe.settings.replaced(num_inference_steps=8, order="halton", revision="none")
    mask = pipe.components.mask_code
    plain = pipe.start("a red circle", settings, seed=3).output("tokens").tokens
    generation = pipe.start("a red circle", settings, seed=3)
    complete = []
    for step in generation:
        complete.append(not bool((step.candidate == mask).any()))
        generation.preview = step.index % 2 == 0
    assert complete[1:-1] == [True, False] * 3
    assert torch.equal(generation.output("tokens").tokens, plain)
