"""Edits with known truth, and their scores."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from folders import write_tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

import smalti
from smalti import SmaltiError
from smalti.evaluation.suites.scenes.detector import detect
from smalti.evaluation.suites.scenes.edit_pairs import KINDS, changed_tokens, edit_pair, edit_pairs
from smalti.evaluation.suites.scenes.edit_score import NUMBERS, background_name, score_edit, summarize_edits
from smalti.evaluation.suites.scenes.edit_selections import SELECTIONS, Edited, edit_by, true_edit
from smalti.worlds.scenes.palette import BACKGROUNDS
from smalti.worlds.scenes.scene import HELD_OUT, render

kinds = st.sampled_from(KINDS)
lattices = st.sampled_from([None, 8, 16])


@given(kinds, st.integers(0, 10**6), lattices)
@settings(max_examples=150, deadline=None)
def test_a_pair_differs_in_its_edit_only(kind, seed, lattice):
    pair = edit_pair(kind, Random(seed), lattice=lattice)
    before, after = pair.before, pair.after
    assert pair.prompt != pair.source_prompt and pair.prompt.startswith("a photo of ")
    assert set(pair.untouched) == set(before.objects) & set(after.objects) and pair.untouched
    for scene in (before, after):
        assert not scene.gradient
        assert not any((item.shape, item.color) in HELD_OUT for item in scene.objects)
        assert len({item.shape for item in scene.objects}) == len({item.color for item in scene.objects})
        assert len({item.shape for item in scene.objects}) == len(scene.objects)
    assert (before.background != after.background) == (kind == "background")
    gone, come = (set(one.objects) - set(other.objects) for one, other in ((before, after), (after, before)))
    assert (len(gone), len(come)) == {
        "recolor": (1, 1), "replace": (1, 1), "remove": (1, 0), "add": (0, 1), "background": (0, 0)
    }[kind]  # fmt: skip
    if kind in ("recolor", "replace"):
        (old,), (new,) = gone, come
        assert (old.x, old.y, old.size) == (new.x, new.y, new.size)
        assert (old.shape == new.shape, old.color == new.color) == (kind == "recolor", kind == "replace")
    for item in after.objects:
        assert f"{item.color} {item.shape}" in pair.prompt
    if kind == "background":
        assert pair.prompt.endswith(f" on a {after.background} background")


def test_pairs_are_the_same_every_time_and_the_kinds_take_turns():
    pairs = list(edit_pairs(12, seed=3))
    assert [pair.kind for pair in pairs] == [*KINDS, *KINDS, *KINDS[:2]]
    again = list(edit_pairs(7, seed=3))
    assert [pair.prompt for pair in again] == [pair.prompt for pair in pairs[:7]]
    assert np.array_equal(again[6].images(64)[1], pairs[6].images(64)[1])
    assert [pair.prompt for pair in edit_pairs(12, seed=4)] != [pair.prompt for pair in pairs]
    for count in (0, 2.5):
        with pytest.raises(SmaltiError, match="count"):
            list(edit_pairs(count))
    with pytest.raises(SmaltiError, match="kind must be"):
        edit_pair("rotate", Random(0))


def test_the_true_edit_scores_one_and_the_original_none():
    """The true result scores 1. The image as it was never shows what is asked for, and keeps everything."""
    rows, idle = [], []
    for pair in edit_pairs(10, seed=1):
        before = pair.images()[0]
        seen = detect(before)
        rows.append((pair.kind, score_edit(pair, true_edit(pair), seen)))
        unchanged = Edited(before, np.zeros((16, 16), dtype=bool), True)
        idle.append((pair.kind, score_edit(pair, unchanged, seen)))
    found, nothing = summarize_edits(rows), summarize_edits(idle)
    assert list(found) == [*NUMBERS, "by_kind"] and list(found["by_kind"]) == list(KINDS)
    assert found["success"] >= 0.96 and found["kept"] >= 0.96
    assert found["iou"] == found["tokens_kept"] == 1 and found["psnr_outside"] == 100
    assert found["redrawn"] == found["changed"] > 0
    assert nothing["success"] == 0 and nothing["kept"] >= 0.96 and nothing["iou"] == nothing["redrawn"] == 0


def test_scores_see_what_went_wrong():
    pair = next(pair for pair in edit_pairs(5, seed=2) if pair.kind == "remove")
    before, after = pair.images()
    seen = detect(before)
    # Everything gone: what had to stay is not kept.
    empty = np.broadcast_to(after[0, 0], after.shape).copy()
    score = score_edit(pair, Edited(empty, np.ones((16, 16), dtype=bool), False), seen)
    assert (score["success"], score["kept"], score["tokens_kept"]) == (0, 0, 0)
    assert score["psnr_unchosen"] is None and score["psnr_outside"] < 40
    assert score["iou"] == score["changed"] == changed_tokens(before, after, 16).mean()
    # Shifted by a quarter of the image, all is there, but not in its place.
    shifted = np.roll(after, 64, axis=1)
    score = score_edit(pair, Edited(shifted, np.ones((16, 16), dtype=bool), True), seen)
    assert score["kept"] == 0


def test_changed_tokens_are_those_with_a_pixel_that_differs():
    before = np.zeros((32, 48, 3), dtype=np.uint8)
    after = before.copy()
    after[15, 16, 2] = 1
    assert changed_tokens(before, after, 16).tolist() == [[False, True, False], [False] * 3]


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_backgrounds_have_their_names(name):
    pair = edit_pair("background", Random(5))
    scene = type(pair.before)(pair.before.objects, name, True, "", "colors", {})
    assert background_name(render(scene, 256)) == name


def test_edits_of_a_model(tmp_path):
    pipe = smalti.load(write_tiny_model(tmp_path / "tiny"))
    two_steps = pipe.settings.replaced(num_inference_steps=2)
    for index, pair in enumerate(edit_pairs(5, seed=0)):
        found = dict(edit_by(pipe.components, pair, two_steps, seed=index, size=64))
        assert list(found) == list(SELECTIONS) and all(edited.tokens_kept for edited in found.values())
        before, after = pair.images(64)
        assert np.array_equal(found["true_mask"].region, changed_tokens(before, after, 8))
        assert found["redraw_all"].region.all()
        assert found["random_share"].region.sum() == found["automatic"].region.sum()
