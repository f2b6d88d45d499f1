"""Scenes: what is in them, where, what their captions say, and how they are drawn."""

from __future__ import annotations

import hashlib
from collections import Counter
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.worlds.layout import RELATIONS, Layout
from smalti.worlds.scenes.captions import geneval_prompt, plural
from smalti.worlds.scenes.extra_shapes import EXTRA_SHAPES, blob, resembles
from smalti.worlds.scenes.palette import BACKGROUNDS, COLORS
from smalti.worlds.scenes.scene import GAP, HELD_OUT, MARGIN, SIZES, Scene, SceneObject, compose, render
from smalti.worlds.scenes.shapes import SHAPES
from smalti.worlds.scenes.world import Scenes
from smalti.worlds.tasks import TRAINING_MIX
from smalti.worlds.wording import NUMBERS

indices = st.integers(0, 10**9)
splits = st.sampled_from(["train", "test"])


def scene_of(shape: str, color: str = "black", size: float = 0.8, x: float = 0.5, y: float = 0.5) -> Scene:
    return Scene((SceneObject(shape, color, x, y, size),), "sky", False, "", "single_object", {})


def apart(a: SceneObject, b: SceneObject) -> float:
    return max(abs(a.x - b.x), abs(a.y - b.y)) - (a.size + b.size) / 2


lattices = st.sampled_from([None, 8, 16, 24, 40])


@given(indices, splits, st.integers(0, 3), lattices)
@settings(max_examples=300, deadline=None)
def test_objects_lie_inside_and_apart(index: int, split: str, seed: int, lattice: int | None) -> None:
    scene = Scenes(seed, split=split, lattice=lattice).scene(index)
    smallest, largest = SIZES[len(scene.objects)]
    for number, item in enumerate(scene.objects):
        assert smallest <= item.size <= largest
        for center in (item.x, item.y):
            assert MARGIN - 1e-9 <= center - item.size / 2
            assert center + item.size / 2 <= 1 - MARGIN + 1e-9
        for other in scene.objects[:number]:
            assert apart(item, other) >= GAP - 1e-9


@given(indices, splits, st.sampled_from([8, 16, 24, 40]))
@settings(max_examples=200, deadline=None)
def test_boxes_on_a_lattice_have_their_edges_there(index: int, split: str, lattice: int) -> None:
    scene = Scenes(split=split, lattice=lattice).scene(index)
    assert not scene.gradient
    for item in scene.objects:
        for edge in (item.x - item.size / 2, item.x + item.size / 2, item.y - item.size / 2):
            assert abs(edge * lattice - round(edge * lattice)) < 1e-6


def test_some_scenes_can_be_on_a_lattice_and_others_not() -> None:
    scenes = Scenes(lattice=8, lattice_share=0.7)
    on = [
        all(abs(value * 8 - round(value * 8)) < 1e-6 for item in scene.objects for value in (item.x, item.y))
        for scene in map(scenes.scene, range(200))
    ]
    assert 0.6 < sum(on) / 200 < 0.8
    with pytest.raises(SmaltiError, match="lattice_share must be"):
        Scenes(lattice=8, lattice_share=1.5)


@pytest.mark.parametrize("lattice", [0, 4, 15, 20, 16.0, "16", 2**63, 10**400])
def test_a_lattice_is_a_multiple_of_eight(lattice: object) -> None:
    with pytest.raises(SmaltiError, match="lattice must be a multiple of 8 up to 65536, or None"):
        Scenes(lattice=lattice)


def test_a_mix_has_a_finite_sum() -> None:
    with pytest.raises(SmaltiError, match="mix must weight some of"):
        Scenes(mix={"single_object": 1e308, "mixed": 1e308})


@given(st.lists(st.floats(0.20, 0.30), min_size=3, max_size=4), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_the_fallback_layout_keeps_boxes_inside_and_apart(sizes: list[float], seed: int) -> None:
    objects = [
        SceneObject("circle", "red", *box)
        for box in Layout(MARGIN, GAP).place_in_quarters(sizes, Random(seed))
    ]
    for number, item in enumerate(objects):
        assert min(item.x, item.y, 1 - item.x, 1 - item.y) >= item.size / 2 + MARGIN - 1e-9
        assert all(apart(item, other) >= GAP - 1e-9 for other in objects[:number])


@pytest.mark.slow
@given(indices)
@settings(max_examples=300, deadline=None)
def test_training_never_shows_a_held_out_pair(index: int) -> None:
    scene = Scenes(split="train").scene(index)
    assert not scene.held_out
    assert not any((item.shape, item.color) in HELD_OUT for item in scene.objects)


def test_held_out_pairs_use_each_shape_and_color_once_and_appear_in_the_test_split() -> None:
    assert {shape for shape, _ in HELD_OUT} == set(SHAPES)
    assert {color for _, color in HELD_OUT} == set(COLORS)
    assert len(HELD_OUT) == len(SHAPES) == len(COLORS) == 10
    test = Scenes(split="test")
    shown = {(item.shape, item.color) for index in range(1500) for item in test.scene(index).objects}
    assert shown >= HELD_OUT and len(shown) == 100


@given(indices, splits)
@settings(max_examples=300, deadline=None)
def test_objects_and_caption_are_what_the_metadata_says(index: int, split: str) -> None:
    scene = Scenes(split=split).scene(index)
    metadata, caption = scene.metadata, scene.caption
    assert metadata["prompt"] == caption and metadata["tag"] == scene.tag
    assert Counter(item.shape for item in scene.objects) == Counter(
        {entry["class"]: entry["count"] for entry in metadata["include"]}
    )
    words = caption.replace(",", "").split()
    assert 2 <= len(words) <= 20
    for entry in metadata["include"]:
        shown = {item.color for item in scene.objects if item.shape == entry["class"]}
        assert len(shown) == 1 and shown <= ({entry["color"]} if "color" in entry else set(COLORS))
        name = entry["class"] if entry["count"] == 1 else plural(entry["class"])
        place = words.index(name)
        if "color" in entry:
            assert words[place - 1] == entry["color"]
        if entry["count"] > 1:
            assert NUMBERS[entry["count"]] in words[max(place - 2, 0) : place]
    for word in words:
        assert word not in COLORS or word in {item.color for item in scene.objects}
        assert word not in BACKGROUNDS or word == scene.background


@given(indices)
@settings(max_examples=200, deadline=None)
def test_positions_are_clear(index: int) -> None:
    scene = Scenes(mix={"position": 1}).scene(index)
    reference, related = scene.objects
    relation = scene.metadata["include"][1]["position"][0]
    dx, dy = RELATIONS[relation]
    along = (related.x - reference.x) * dx + (related.y - reference.y) * dy
    across = (related.x - reference.x) * dy + (related.y - reference.y) * dx
    assert along >= (reference.size + related.size) / 2 + GAP - 1e-9
    assert abs(across) <= along / 2 + 1e-9
    first, second = scene.caption.index(related.shape), scene.caption.index(reference.shape)
    assert first < second


def test_an_item_depends_only_on_seed_split_and_index() -> None:
    scenes = Scenes(seed=3, size=64)
    first = scenes[17]
    scenes[5]
    again, larger = Scenes(seed=3, size=64)[17], Scenes(seed=3, size=128)
    assert torch.equal(first["image"], again["image"]) and first["caption"] == again["caption"]
    assert first["image"].shape == (3, 64, 64) and first["image"].dtype == torch.uint8
    assert first["image"].is_contiguous()
    assert larger.scene(17) == scenes.scene(17)
    others = [Scenes(seed=4), Scenes(seed=3, split="test")]
    assert all([other.scene(i) for i in range(5)] != [scenes.scene(i) for i in range(5)] for other in others)


def test_the_mix_of_tasks_is_as_asked() -> None:
    tags = Counter(Scenes().scene(index).tag for index in range(2000))
    for tag, share in TRAINING_MIX.items():
        assert abs(tags[tag] / 2000 - share) < 0.04
    assert {Scenes(mix={"colors": 2}).scene(index).tag for index in range(20)} == {"colors"}


def test_captions_come_in_several_wordings() -> None:
    scenes = [Scenes().scene(index) for index in range(3000)]
    captions = [scene.caption for scene in scenes]
    expected = [
        "a photo of",
        "a picture of",
        "there are",
        "to the left of",
        " over ",
        "small",
        "large",
        " with ",
    ]
    for words in expected:
        assert any(words in caption for caption in captions), words
    mentioned = sum(caption.endswith("background") for caption in captions)
    assert 0.2 < mentioned / len(captions) < 0.3
    assert len({word for caption in captions for word in caption.replace(",", "").split()}) < 80
    for scene in scenes:
        if "small" in scene.caption or "large" in scene.caption:
            assert (scene.objects[0].size < 0.4) == ("small" in scene.caption)


def looks_like(item: SceneObject) -> frozenset[str]:
    if item.shape in SHAPES:
        return frozenset({item.shape})
    return resembles(blob(item.outline) if item.shape == "blob" else EXTRA_SHAPES[item.shape])


@pytest.mark.slow
@given(indices)
@settings(max_examples=300, deadline=None)
def test_variety_keeps_training_clear_of_held_out_pairs_and_captions_true(index: int) -> None:
    scene = Scenes(lattice=8, extra_shapes=0.5, halves=0.5, blobs=0.4).scene(index)
    for item in scene.objects:
        for color in (item.color, item.right_color):
            assert not any((shape, color) in HELD_OUT for shape in looks_like(item))
    for entry in scene.metadata["include"]:
        objects = [
            item
            for item in scene.objects
            if item.shape == entry["class"] and (item.color == entry.get("color", item.color))
        ]
        assert len(objects) == entry["count"]
        for item in objects:
            assert item.right_color == entry.get("right_color") != item.color
            if item.right_color:
                assert f"{item.color} and {item.right_color} {item.shape}" in scene.caption.replace(
                    plural(item.shape), item.shape
                )
    for entry in scene.metadata.get("exclude", []):
        assert entry["class"] == scene.metadata["include"][0]["class"]


def test_blobs_of_a_scene_have_one_outline_and_different_colours() -> None:
    scenes = [Scenes(lattice=8, blobs=0.5).scene(index) for index in range(600)]
    several = [scene for scene in scenes if len(scene.metadata["include"]) > 1]
    blobs = [scene for scene in several if scene.objects[0].shape == "blob"]
    assert abs(len(blobs) / len(several) - 0.5) < 0.1
    assert not any(item.shape == "blob" for scene in scenes if scene not in several for item in scene.objects)
    for scene in blobs:
        assert len({(item.shape, item.outline) for item in scene.objects}) == 1
        assert len({item.color for item in scene.objects}) == len(scene.metadata["include"])
    outlines = {scene.objects[0].outline for scene in blobs}
    assert len(outlines) == len(blobs)
    with pytest.raises(SmaltiError, match="blobs must be"):
        Scenes(blobs=1.5)


def test_colours_can_be_named_without_another_picture() -> None:
    quiet = [Scenes(lattice=8).scene(index) for index in range(400)]
    named = [Scenes(lattice=8, named=1).scene(index) for index in range(400)]
    some = [Scenes(lattice=8, named=0.5).scene(index) for index in range(400)]
    for scene, other in zip(quiet, named, strict=True):
        assert (scene.objects, scene.background) == (other.objects, other.background)
        assert all(item.color in other.caption for item in other.objects)

    def open_colours(scenes: list[Scene]) -> int:
        return sum("color" not in entry for scene in scenes for entry in scene.metadata["include"])

    assert open_colours(named) == 0 < open_colours(quiet)
    assert 0.35 < open_colours(some) / open_colours(quiet) < 0.65
    with pytest.raises(SmaltiError, match="named must be"):
        Scenes(named=-1)


def test_a_shape_resembles_itself_and_what_covers_most_of_it() -> None:
    for name, field in SHAPES.items():
        assert name in resembles(field)
    assert "circle" in resembles(EXTRA_SHAPES["octagon"]) and "square" in resembles(EXTRA_SHAPES["frame"])
    assert not resembles(EXTRA_SHAPES["bar"]) and not resembles(EXTRA_SHAPES["tee"])
    assert resembles(lambda x, y: x * 0 + y * 0 + 1) == frozenset()


def test_variety_is_as_frequent_as_asked_for_and_changes_nothing_else() -> None:
    varied = [Scenes(lattice=8, extra_shapes=0.3, halves=0.2).scene(index) for index in range(1000)]
    kinds = [entry for scene in varied for entry in scene.metadata["include"]]
    assert abs(np.mean([entry["class"] in EXTRA_SHAPES for entry in kinds]) - 0.3) < 0.05
    assert abs(np.mean(["right_color" in entry for entry in kinds if "color" in entry]) - 0.2) < 0.05
    assert {entry["class"] for entry in kinds} == {*SHAPES, *EXTRA_SHAPES}
    assert [scene.tag for scene in varied] == [Scenes(lattice=8).scene(index).tag for index in range(1000)]
    for wrong in (-0.1, 1.1):
        with pytest.raises(SmaltiError, match="extra_shapes must be"):
            Scenes(extra_shapes=wrong)
        with pytest.raises(SmaltiError, match="halves must be"):
            Scenes(halves=wrong)


def test_halves_have_their_colours() -> None:
    item = SceneObject("circle", "red", 0.5, 0.5, 0.5, "blue")
    picture = render(Scene((item,), "sky", False, "", "single_object", {}), 128)
    assert (picture[64, 40:64] == COLORS["red"]).all() and (picture[64, 64:88] == COLORS["blue"]).all()
    assert Scene((SceneObject("square", "red", 0.5, 0.5, 0.5, "pink"),), "sky", False, "", "", {}).held_out


@pytest.mark.parametrize("shape", EXTRA_SHAPES)
def test_extra_shapes_lie_in_their_box_with_fields_that_are_distances(shape: str) -> None:
    axis = np.linspace(-1.5, 1.5, 301, dtype=np.float32)
    field = np.broadcast_to(EXTRA_SHAPES[shape](axis[None, :], axis[:, None]), (301, 301))
    inside = field < 0
    rows, columns = axis[inside.any(axis=1)], axis[inside.any(axis=0)]
    for ends in (rows[[0, -1]], columns[[0, -1]]):
        assert np.abs(ends).max() <= 1
        assert abs(ends.sum()) < 0.35
    assert max(np.ptp(rows), np.ptp(columns)) > 1.6 and inside.sum() > 0.1 * 200**2
    # No steeper than a distance, and as steep at most places of the edge, which anti-aliasing needs.
    slope = np.hypot(*np.gradient(field, axis, axis))
    assert np.quantile(slope, 0.99) < 1.05
    assert np.median(slope[np.abs(field) < 0.02]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_centred_fill_their_box_and_have_soft_edges(shape: str) -> None:
    side = 400
    picture = render(scene_of(shape, x=0.5008, y=0.5008), side).astype(float)
    background, ink = np.array(BACKGROUNDS["sky"]), np.array(COLORS["black"])
    coverage = ((background - picture) / (background - ink)).mean(axis=-1)
    rows, columns = np.flatnonzero(coverage.max(axis=1) > 0.5), np.flatnonzero(coverage.max(axis=0) > 0.5)
    assert abs(rows[0] + rows[-1] + 1 - side) <= 4 and abs(columns[0] + columns[-1] + 1 - side) <= 4
    assert 0.85 * 0.8 * side <= max(rows[-1] - rows[0], columns[-1] - columns[0]) <= 0.8 * side
    soft = ((coverage > 0.02) & (coverage < 0.98)).mean()
    assert 0 < soft < 0.02
    assert coverage.min() == 0 and coverage.max() == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_is_the_same_at_any_resolution(shape: str) -> None:
    scene = scene_of(shape, "red", 0.43, 0.37, 0.61)
    fine = render(scene, 512).astype(float).reshape(128, 4, 128, 4, 3).mean(axis=(1, 3))
    assert np.abs(fine - render(scene, 128)).mean() < 0.3


def test_pictures_need_not_be_square() -> None:
    scene = scene_of("circle", "red", 0.5)
    picture = render(scene, (100, 200))
    assert picture.shape == (100, 200, 3)
    red = (picture == COLORS["red"]).all(axis=-1)
    assert abs(red.any(axis=0).sum() - 50) <= 2 and abs(red.any(axis=1).sum() - 50) <= 2


def test_gradients_are_soft_and_keep_the_tint() -> None:
    plain = scene_of("circle")
    shaded = render(Scene(plain.objects, "sky", True, "", "single_object", {}), 256).astype(int)
    column = shaded[:, 0]
    assert (np.diff(column, axis=0) <= 0).all() and (np.diff(column, axis=0) >= -1).all()
    assert 10 < column[0, 1] - column[-1, 1] < 30
    assert (render(plain, 256)[0, 0] == BACKGROUNDS["sky"]).all()


@given(indices)
@settings(max_examples=100, deadline=None)
def test_compose_follows_the_metadata_of_another_scene(index: int) -> None:
    wanted = Scenes(split="test").scene(index).metadata
    scene = compose(wanted, Random(index))
    assert scene.metadata == wanted and scene.caption == wanted["prompt"]
    assert len(scene.objects) == sum(entry["count"] for entry in wanted["include"])


def test_the_plain_wording_is_genevals() -> None:
    include = [
        {"class": "square", "count": 1, "color": "blue"},
        {"class": "arrow", "count": 1, "color": "orange", "position": ["left of", 0]},
    ]
    assert geneval_prompt({"include": include}) == "a photo of an orange arrow left of a blue square"
    assert geneval_prompt({"include": [{"class": "cross", "count": 3}]}) == "a photo of three crosses"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"split": "validation"}, "split"),
        ({"seed": 1.5}, "seed"),
        ({"size": 0}, "size"),
        ({"size": "256"}, "size"),
        ({"size": (256, 9999)}, "size"),
        ({"mix": {"painting": 1}}, "mix"),
        ({"mix": {"colors": -1}}, "mix"),
        ({"mix": {}}, "mix"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, named: str) -> None:
    with pytest.raises(SmaltiError, match=named) as caught:
        Scenes(**arguments)
    assert "\n" not in str(caught.value)


def test_wrong_scenes_are_named() -> None:
    with pytest.raises(SmaltiError, match="index"):
        Scenes()[-1]
    for entry, named in [
        ({"class": "dog", "count": 1}, "dog"),
        ({"class": "star", "count": 1, "color": "teal"}, "teal"),
        ({"class": "star", "count": 5}, "not 5"),
        ({"class": "star", "count": 1, "position": ["left of", 0]}, "position"),
    ]:
        with pytest.raises(SmaltiError, match=named):
            compose({"tag": "colors", "include": [entry]}, Random(0))


def test_scenes_of_a_seed_stay_what_they_were() -> None:
    """A token cache and a training resumed later rely on it."""
    scenes = Scenes(seed=11, lattice=8, extra_shapes=0.35, halves=0.2, blobs=0.3, named=0.25, size=64)
    digest = hashlib.sha256()
    for index in range(200):
        digest.update(repr(scenes.scene(index)).encode() + scenes[index]["image"].numpy().tobytes())
    assert digest.hexdigest() == "9b3b90bd1dfbd425621feccce9be380e3b76778dd4331e06ee274e485dc805af"
