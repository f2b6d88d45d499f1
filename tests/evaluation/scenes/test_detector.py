"""The detector of scenes finds what is there, in clean and in degraded images, and nothing else."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

pytest.importorskip("skimage")

from smalti.errors import SmaltiError  # noqa: E402
from smalti.evaluation.geneval import Detection, is_correct, relations  # noqa: E402
from smalti.evaluation.suites.scenes import detector, outlines  # noqa: E402
from smalti.evaluation.suites.scenes.detector import detect  # noqa: E402
from smalti.worlds.scenes.palette import BACKGROUNDS, COLORS  # noqa: E402
from smalti.worlds.scenes.scene import Scene, SceneObject, render  # noqa: E402
from smalti.worlds.scenes.shapes import SHAPES  # noqa: E402
from smalti.worlds.scenes.world import Scenes  # noqa: E402


def degrade(picture: np.ndarray, seed: int) -> np.ndarray:
    """Blurred (radius 2), noisy (5 of 255) and off in colour (up to 8 a channel)."""
    random = np.random.default_rng(seed)
    soft = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(2))).astype(float)
    soft += random.normal(0, 5, soft.shape) + random.uniform(-8, 8, 3)
    return soft.clip(0, 255).astype(np.uint8)


def counted(scene: Scene) -> Counter[tuple[str, str]]:
    return Counter((item.shape, item.color) for item in scene.objects)


def found(picture: np.ndarray) -> Counter[tuple[str, str]]:
    return Counter((item.name, item.color) for item in detect(picture))


def box(left: float, top: float, right: float, bottom: float) -> Detection:
    return Detection("circle", "red", (left, top, right, bottom), 1.0)


@pytest.mark.slow
@given(st.integers(0, 10**6), st.sampled_from(["train", "test"]))
@settings(max_examples=60, deadline=None)
def test_it_sees_what_a_scene_holds_and_what_its_metadata_asks_for(index: int, split: str) -> None:
    scene = Scenes(seed=7, split=split).scene(index)
    picture = render(scene, 256)
    assert found(picture) == counted(scene)
    assert is_correct(scene.metadata, detect(picture))


@pytest.mark.slow
def test_it_sees_through_blur_noise_and_a_tint() -> None:
    scenes = [Scenes(seed=8, split="test").scene(index) for index in range(80)]
    right = [
        found(degrade(render(scene, 256), index)) == counted(scene) for index, scene in enumerate(scenes)
    ]
    assert np.mean(right) >= 0.95


@pytest.mark.parametrize("size", [128, 512, (192, 320)])
def test_it_works_at_other_sizes(size: int | tuple[int, int]) -> None:
    for index in range(6):
        scene = Scenes(seed=9).scene(index)
        assert found(render(scene, size)) == counted(scene)


def test_every_shape_and_color_on_every_background() -> None:
    for number, background in enumerate(BACKGROUNDS):
        for step, shape in enumerate(SHAPES):
            color = list(COLORS)[(step + number) % len(COLORS)]
            item = SceneObject(shape, color, 0.45, 0.55, 0.3)
            picture = render(Scene((item,), background, True, "", "colors", {}), 192)
            (seen,) = detect(picture)
            assert (seen.name, seen.color) == (shape, color)
            left, top, right, bottom = seen.box
            assert abs((left + right) / 2 - 0.45) < 0.01 and abs((top + bottom) / 2 - 0.55) < 0.01
            assert 0.85 < seen.score <= 1


def test_objects_of_two_colors_that_touch_are_two() -> None:
    items = (SceneObject("square", "red", 0.35, 0.5, 0.333), SceneObject("square", "blue", 0.65, 0.5, 0.333))
    picture = render(Scene(items, "grey", False, "", "color_attr", {}), 256)
    assert found(picture) == {("square", "red"): 1, ("square", "blue"): 1}


def test_it_sees_nothing_where_nothing_is() -> None:
    random = np.random.default_rng(0)
    plain = np.full((256, 256, 3), 190, dtype=np.uint8)
    noise = random.integers(0, 256, (256, 256, 3)).astype(np.uint8)
    speck = plain.copy()
    speck[100:108, 100:108] = (220, 32, 40)
    stripe = plain.copy()
    stripe[100:140, 20:230] = (220, 32, 40)
    assert all(detect(picture) == [] for picture in (plain, noise, speck, stripe))


def test_relations_follow_genevals_rule() -> None:
    middle = box(0.4, 0.4, 0.6, 0.6)
    assert relations(box(0.1, 0.4, 0.3, 0.6), middle) == {"left of"}
    assert relations(box(0.7, 0.42, 0.9, 0.62), middle) == {"right of"}
    assert relations(box(0.4, 0.0, 0.6, 0.2), middle) == {"above"}
    assert relations(box(0.4, 0.8, 0.6, 1.0), middle) == {"below"}
    assert relations(box(0.7, 0.7, 0.9, 0.9), middle) == {"right of", "below"}
    assert relations(middle, middle) == set()
    # Within a tenth of both boxes' sides (0.04) there is no relation.
    assert relations(box(0.43, 0.4, 0.63, 0.6), middle) == set()


@pytest.mark.parametrize(
    "image",
    [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 3), np.float32)],
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(SmaltiError, match="uint8"):
        detect(image)


def test_it_is_independent_of_the_generator_and_knows_the_same_names() -> None:
    for module in (detector, outlines):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        sources = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(source.startswith("smalti.worlds") for source in sources)
    assert set(outlines.SHAPES) == set(SHAPES) and set(detector.COLORS) == set(COLORS)


def test_a_missing_scikit_image_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "skimage.color", None)
    monkeypatch.delitem(sys.modules, "smalti.evaluation.suites.scenes.detector")
    with pytest.raises(SmaltiError, match=r"scikit-image.*smalti\[evaluate\]"):
        importlib.import_module("smalti.evaluation.suites.scenes.detector")


def test_a_patchwork_of_all_colors_is_no_error() -> None:
    """What a model draws in one step: a blob in which no colour has a large share."""
    image = np.full((256, 256, 3), BACKGROUNDS["grey"], dtype=np.uint8)
    for number, color in enumerate(COLORS.values()):
        image[64 + 10 * number : 74 + 10 * number, 64:164] = color
    assert all(isinstance(found, Detection) for found in detect(image))
