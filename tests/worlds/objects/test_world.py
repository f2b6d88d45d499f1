"""Scenes of objects: what is in them, where, what they look like, and what stays the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from random import Random
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from smalti.data.sources import FileSource
from smalti.errors import SmaltiError
from smalti.worlds.layout import RELATIONS
from smalti.worlds.objects.archive import SpriteArchive
from smalti.worlds.objects.composing import LATTICE_SIZE, SIZES
from smalti.worlds.objects.config import ObjectsConfig
from smalti.worlds.objects.grounds import GROUNDS
from smalti.worlds.objects.scene import INSET, Scene, render
from smalti.worlds.objects.splits import colors_of, is_held_out_pair
from smalti.worlds.objects.world import Objects
from smalti.worlds.tasks import TRAINING_MIX


def scenes_of(archive: SpriteArchive, count: int, **settings: object) -> list[Scene]:
    objects = Objects(archive, **settings)
    return [objects.scene(index) for index in range(count)]


def apart(scene: Scene) -> float:
    """Return the least distance of two boxes of a scene, or of a box and the image's edge."""
    found = [
        min(item.x, item.y, 1 - item.x, 1 - item.y) - item.size / 2
        for item in scene.things
    ]  # fmt: skip
    for number, item in enumerate(scene.things):
        for other in scene.things[:number]:
            gap = max(abs(item.x - other.x), abs(item.y - other.y)) - (item.size + other.size) / 2
            found.append(gap)
    return min(found)


@pytest.mark.parametrize("lattice", [None, 8, 16])
def test_things_lie_inside_and_apart(archive: SpriteArchive, lattice: int | None) -> None:
    for scene in scenes_of(archive, 300, lattice=lattice):
        assert apart(scene) >= -1e-9
        for item in scene.things:
            smallest, largest = SIZES[len(scene.things)]
            if lattice is None:
                assert smallest <= item.size <= largest
            else:
                assert item.size == LATTICE_SIZE and not item.turn and not item.mirrored
                for edge in (item.x - item.size / 2, item.y - item.size / 2):
                    assert abs(edge * lattice - round(edge * lattice)) < 1e-9
        if lattice:
            assert scene.ground.shift == (0, 0) and (scene.ground.horizon * lattice).is_integer()


def test_some_scenes_can_be_on_a_lattice_and_others_not(archive: SpriteArchive) -> None:
    scenes = scenes_of(archive, 300, lattice=16, lattice_share=0.7)
    assert 0.6 < np.mean([scene.things[0].size == LATTICE_SIZE for scene in scenes]) < 0.8


def test_compact_scenes_show_one_sprite_of_each_noun_and_colour(archive: SpriteArchive) -> None:
    styles = {"fluent-3d": 2, "noto": 5, "twemoji": 1}
    whole = Objects(archive, styles=styles).composer.collection
    small = Objects(archive, styles=styles, compact=True).composer.collection
    for noun in small.scored:
        assert small.colors(noun) == whole.colors(noun)
        for color in (None, *small.colors(noun)):
            kept, every = small.sprites(noun, color), whole.sprites(noun, color)
            assert len(kept) == 1 and set(kept) <= set(every)
            best = max(styles[archive.sprites[number].style] for number in every)
            assert max(styles[archive.sprites[number].style] for number in kept) == best
    shown = {
        item.noun for scene in scenes_of(archive, 50, styles=styles, compact=True) for item in scene.things
    }
    assert shown <= set(small.scored)


def test_scenes_can_be_of_some_nouns_alone(archive: SpriteArchive) -> None:
    nouns = Objects(archive).composer.collection.scored[:4]
    shown = {item.noun for scene in scenes_of(archive, 50, nouns=nouns) for item in scene.things}
    assert shown == set(nouns)
    with pytest.raises(SmaltiError, match="nouns must be classes of the archive, not 'unicorns'"):
        Objects(archive, nouns=["unicorns"])


def test_the_caption_of_a_compact_scene_decides_its_places(archive: SpriteArchive) -> None:
    for scene in scenes_of(archive, 200, compact=True, lattice=8):
        places = [(item.x, item.y) for item in scene.things]
        include, count = scene.metadata["include"], len(scene.things)
        assert [item.noun for item in scene.things] == [
            entry["class"] for entry in include for _ in range(entry["count"])
        ]
        assert apart(scene) >= 0 and all(item.size == LATTICE_SIZE for item in scene.things)
        if scene.tag == "position":
            dx, dy = RELATIONS[include[1]["position"][0]]
            assert places == [(0.5 - dx / 4, 0.5 - dy / 4), (0.5 + dx / 4, 0.5 + dy / 4)]
        else:
            assert places == sorted(places, key=lambda place: place[::-1])
        if count == 1:
            assert places == [(0.5, 0.5)]


def test_a_compact_scene_has_a_quiet_ground_unless_its_caption_names_it(archive: SpriteArchive) -> None:
    quiet = {"white", "light grey", "light blue", "beige", "dark grey"}
    words = re.compile(r"\b(background|on|in|against|outdoors)\b")
    scenes = scenes_of(archive, 200, compact=True, lattice=8)
    silent = [scene.ground for scene in scenes if not words.search(scene.caption)]
    assert len(silent) > 100
    assert {ground.kind for ground in silent} == {"plain"} and {ground.name for ground in silent} <= quiet
    assert not {scene.ground.name for scene in scenes} <= quiet


@pytest.mark.parametrize("split", ["train", "test"])
def test_things_are_what_the_metadata_says(archive: SpriteArchive, split: str) -> None:
    for scene in scenes_of(archive, 300, split=split):
        metadata = scene.metadata
        assert metadata["tag"] == scene.tag and metadata["prompt"] == scene.caption
        shown = Counter(item.noun for item in scene.things)
        assert shown == {entry["class"]: entry["count"] for entry in metadata["include"]}
        for item in scene.things:
            sprite = archive.sprites[item.sprite]
            assert item.noun == (sprite.noun or sprite.name)
            entry = next(entry for entry in metadata["include"] if entry["class"] == item.noun)
            assert "color" not in entry or sprite.color == entry["color"]
        if scene.tag == "counting":
            assert metadata["exclude"][0]["count"] == len(scene.things) + 1
        colors = [entry["color"] for entry in metadata["include"] if "color" in entry]
        assert scene.tag == "mixed" or len(set(colors)) == len(colors)
        assert not {"ring", "rare ring"} <= set(shown)  # they look alike


def test_training_shows_nothing_that_is_held_out(archive: SpriteArchive) -> None:
    objects = Objects(archive)
    splits = objects.composer.collection.splits
    assert splits.colors
    for scene in scenes_of(archive, 400):
        for item in scene.things:
            assert not splits.test[item.sprite]
            sprite = archive.sprites[item.sprite]
            assert not any((sprite.noun, color) in splits.colors for color in colors_of(sprite))
        nouns = sorted({item.noun for item in scene.things})
        assert not any(is_held_out_pair(a, b) for a in nouns for b in nouns if a < b)
    for scene in scenes_of(archive, 100, split="test"):
        assert all(splits.test[item.sprite] for item in scene.things)


def test_positions_are_clear(archive: SpriteArchive) -> None:
    for scene in scenes_of(archive, 150, mix={"position": 1}):
        reference, related = scene.things
        dx, dy = RELATIONS[scene.metadata["include"][1]["position"][0]]
        along = (related.x - reference.x) * dx + (related.y - reference.y) * dy
        across = (related.x - reference.x) * dy + (related.y - reference.y) * dx
        assert along >= (reference.size + related.size) / 2 - 1e-9 and abs(across) <= along / 2 + 1e-9


def test_an_item_depends_only_on_seed_split_and_index(archive: SpriteArchive) -> None:
    objects = Objects(archive, seed=3, size=64)
    first = objects[17]
    objects[5]
    again, larger = Objects(archive.path, seed=3, size=64)[17], Objects(archive, seed=3, size=(96, 128))
    assert torch.equal(first["image"], again["image"]) and first["caption"] == again["caption"]
    assert first["image"].shape == (3, 64, 64) and first["image"].dtype == torch.uint8
    assert first["image"].is_contiguous() and larger[17]["image"].shape == (3, 96, 128)
    assert larger.scene(17) == objects.scene(17)
    others = [Objects(archive, seed=4), Objects(archive, seed=3, split="test")]
    for other in others:
        assert [other.scene(i) for i in range(5)] != [objects.scene(i) for i in range(5)]


def test_a_scene_is_alike_at_any_resolution(archive: SpriteArchive) -> None:
    objects = Objects(archive, lattice=16)
    for index in range(12):
        scene = objects.scene(index)
        fine = render(scene, objects.composer.pictures, 512).astype(float)
        fine = fine.reshape(128, 4, 128, 4, 3).mean(axis=(1, 3))
        assert np.abs(fine - render(scene, objects.composer.pictures, 128)).mean() < 3


def test_tokens_of_a_thing_are_the_same_wherever_it_stands(archive: SpriteArchive) -> None:
    objects = Objects(archive, lattice=16, grounds={"plain": 1}, mix={"counting": 1})
    pixels = 0
    for index in range(20):
        scene = objects.scene(index)
        image = render(scene, objects.composer.pictures, 256)
        side = round(scene.things[0].size * 256)
        inside = side - round(side * INSET)  # the lowest pixels may hold another thing's shadow
        parts: dict[int, np.ndarray] = {}
        for item in scene.things:
            left, top = (round(center * 256 - side / 2) for center in (item.x, item.y))
            part = image[top + 8 : top + inside, left : left + side]
            same = parts.setdefault(item.sprite, part)
            assert np.array_equal(same, part)
            pixels += part.size
    assert pixels


def test_things_stand_out_from_the_ground(archive: SpriteArchive) -> None:
    objects = Objects(archive)
    for index in range(120):
        scene = objects.scene(index)
        for item in scene.things:
            color = archive.sprites[item.sprite].color
            assert color is None or scene.ground.kind != "plain" or color != scene.ground.name
            assert (color, scene.ground.name) not in {
                ("white", "snow"),
                ("white", "paper"),
                ("blue", "water"),
            }


def test_styles_grounds_and_tasks_are_as_asked(archive: SpriteArchive) -> None:
    scenes = scenes_of(archive, 600)
    for tag, share in TRAINING_MIX.items():
        assert abs(np.mean([scene.tag == tag for scene in scenes]) - share) < 0.06
    kinds = Counter(scene.ground.kind for scene in scenes)
    assert set(kinds) == set(GROUNDS)
    one = scenes_of(archive, 40, styles={"noto": 1, "fluent-flat": 0}, grounds={"texture": 1})
    assert {scene.ground.kind for scene in one} == {"texture"}
    assert {archive.sprites[item.sprite].style for scene in one for item in scene.things} == {"noto"}


def test_a_turned_thing_is_not_cut_off(archive: SpriteArchive) -> None:
    pictures = Objects(archive).composer.pictures
    for number in range(0, len(archive), 7):
        for turn in (0.0, 9.0, -12.0):
            image, (left, top, right, bottom) = pictures.scaled(number, 100, turn)
            visible = np.asarray(image)[..., 3] > 127
            assert image.size == (100, 100) and 0 <= left < right <= 100 and 0 <= top < bottom <= 100
            if turn:
                edge = visible[0].sum() + visible[-1].sum() + visible[:, 0].sum() + visible[:, -1].sum()
                assert edge <= 8


def test_compose_follows_the_metadata_of_another_scene(archive: SpriteArchive) -> None:
    objects = Objects(archive)
    for index in range(40):
        wanted = objects.scene(index).metadata
        scene = objects.composer.compose(wanted, Random(index))
        assert scene.metadata == wanted and scene.caption == wanted["prompt"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"split": "validation"}, "split must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"size": 0}, "size must be"),
        ({"mix": {"painting": 1}}, "mix must weight"),
        ({"grounds": {"plain": -1}}, "grounds must weight"),
        ({"styles": {"cubist": 1}}, "styles must weight some of .*noto"),
        ({"lattice": 12}, "lattice must be"),
        ({"lattice_share": 2}, "lattice_share must be"),
    ],
)
def test_wrong_arguments_are_named(archive: SpriteArchive, settings: dict, named: str) -> None:
    with pytest.raises(SmaltiError, match=named) as caught:
        Objects(archive, **settings)
    assert "\n" not in str(caught.value)


def test_wrong_scenes_are_named(archive: SpriteArchive) -> None:
    objects = Objects(archive)
    with pytest.raises(SmaltiError, match="index must be"):
        objects[-1]
    with pytest.raises(SmaltiError, match="not 'red dog'"):
        entry = {"class": "dog", "count": 1, "color": "red"}
        objects.composer.compose({"tag": "colors", "include": [entry]}, Random(0))
    with pytest.raises(SmaltiError, match="too few sprites for scenes of the kind 'colors'"):
        Objects(archive, styles={"fluent-3d": 1}, mix={"colors": 1})[0]


def test_a_configuration_makes_both_splits(archive: SpriteArchive, tmp_path: Path) -> None:
    config = ObjectsConfig(archive=str(archive.path), size=32, lattice=8)
    (tmp_path / "nouns.txt").write_text("apple\npair of skis\n")
    assert ObjectsConfig(nouns=str(tmp_path / "nouns.txt")).nouns == ["apple", "pair of skis"]
    with pytest.raises(ValueError, match="does not exist"):
        ObjectsConfig(nouns=str(tmp_path / "none.txt"))
    assert (config.training().split, config.unseen().split) == ("train", "test")
    assert config.training().fingerprint() == config.unseen().fingerprint()
    assert isinstance(config.training(), FileSource)  # so that a token cache knows the archive
    with pytest.raises(SmaltiError, match="does not exist; `smalti prepare objects -o FOLDER` writes one"):
        ObjectsConfig(archive=str(tmp_path / "none")).training()


def test_scenes_of_a_seed_stay_what_they_were(archive: SpriteArchive) -> None:
    """A token cache and a training resumed later rely on it."""
    digest = hashlib.sha256()
    for lattice in (None, 16):
        for scene in scenes_of(archive, 100, seed=11, lattice=lattice):
            digest.update(repr(scene).encode())
    assert digest.hexdigest() == "de6cbe519037be3c5c6d2040f89cc9a0c6bca8eea4b32f8d761e529833dc9ae2"


@pytest.mark.parametrize(
    "entry",
    [
        {"key": "noto/ball-red", "name": 5, "style": "noto"},
        {"key": "noto/ball-red", "name": "ball", "style": ["noto"]},
        {"key": "noto/ball-red", "name": "ball", "style": "noto", "hypernyms": [1]},
        {"key": "", "name": "ball", "style": "noto"},
        {"name": "ball"},
        [],
        7,
    ],
)
def test_an_index_of_other_types_is_damaged(tmp_path: Path, entry: object) -> None:
    with ZipFile(tmp_path / "sprites.zip", "w") as archive:
        archive.writestr("noto/ball-red.webp", b"")
        archive.writestr("index.jsonl", json.dumps(entry))
    with pytest.raises(SmaltiError, match="is no sprite archive, or is damaged"):
        SpriteArchive(tmp_path)


def test_what_is_no_file_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sprites.zip")  # which would be waited for
    with pytest.raises(SmaltiError, match="is no sprite archive, or is damaged"):
        SpriteArchive(tmp_path)
    with pytest.raises(SmaltiError, match="does not exist|is no sprite archive"):
        SpriteArchive("x" * 5000)
