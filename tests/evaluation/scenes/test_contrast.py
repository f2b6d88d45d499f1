"""Contrasts: prompts that differ in one thing, and what a model makes of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import smalti
from smalti.errors import SmaltiError
from smalti.evaluation.suites.scenes.contrast import KINDS, contrasts, measure_contrasts
from smalti.worlds.scenes.scene import HELD_OUT


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(list(KINDS)), seed=st.integers(0, 2**40))
def test_the_other_prompt_differs_in_one_thing(kind: str, seed: int) -> None:
    contrast, again = (next(contrasts(kind, 1, seed=seed)) for _ in range(2))
    assert contrast == again
    own, other = contrast.prompt.split(), contrast.other.split()
    assert contrast.prompt != contrast.other
    changed = {"count": 1, "relation": 1, "swapped_colors": 2, "swapped_colors_held_out": 2}.get(kind)
    if changed:
        # An article may follow its colour: a red, an orange.
        pairs = [(a, b) for a, b in zip(own, other, strict=False) if a != b and {a, b} != {"a", "an"}]
        assert len(pairs) == changed or kind == "relation"
    objects = [(item.shape, item.color) for item in contrast.scene.objects]
    assert all(shape in contrast.prompt for shape, _ in objects)
    assert any(pair in HELD_OUT for pair in objects) == kind.endswith("held_out")


@pytest.mark.slow
def test_a_model_that_knows_nothing_is_at_chance_and_the_bundled_one_is_not() -> None:
    pipe = smalti.load("scenes")
    kwargs = dict(mask_ratios=(1.0, 0.9))
    knows = measure_contrasts(pipe.components, "color", 12, **kwargs)
    assert knows[1.0]["right"] > 0.9 and knows[1.0]["nats"] > 5
    assert knows == measure_contrasts(pipe.components, "color", 12, **kwargs)
    deaf = smalti.load("scenes")
    with torch.no_grad():
        deaf.denoiser.embed_tokens.weight.zero_()
    nothing = measure_contrasts(deaf.components, "color", 12, **kwargs)
    assert all(0.1 < row["right"] < 0.9 for row in nothing.values())
    assert all(abs(row["nats"]) < abs(knows[ratio]["nats"]) for ratio, row in nothing.items())


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(SmaltiError, match="kind must be"):
        next(contrasts("taste", 1))
    assert dataclasses.is_dataclass(next(contrasts("shape", 1)).scene)
