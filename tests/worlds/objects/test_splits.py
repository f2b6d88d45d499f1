"""Splits, collections, and pairs of things that look alike."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

import pytest
from sprites import COLORS, SHAPES

from smalti.errors import SmaltiError
from smalti.worlds.objects.archive import Sprite, SpriteArchive
from smalti.worlds.objects.collection import Collection
from smalti.worlds.objects.likeness import Likeness
from smalti.worlds.objects.nouns import GENEVAL_NOUNS, SYNONYMS, geneval_nouns
from smalti.worlds.objects.splits import drawing_of, is_held_out_pair, scored_nouns, split_sprites


def test_sprites_of_one_drawing_are_on_one_side(archive: SpriteArchive) -> None:
    splits = split_sprites(archive.sprites)
    sides = defaultdict(set)
    for drawing, test in zip(splits.drawings, splits.test, strict=True):
        sides[drawing].add(test)
    assert all(len(side) == 1 for side in sides.values())
    assert Counter(splits.drawings)["fluent/ball"] == 3 and Counter(splits.drawings)["models/ball"] == 2


def test_every_noun_with_enough_sprites_holds_out_some(archive: SpriteArchive) -> None:
    splits = split_sprites(archive.sprites)
    for noun in SHAPES:
        sides = [splits.test[i] for i, sprite in enumerate(archive.sprites) if sprite.noun == noun]
        assert 0 < sum(sides) <= len(sides) / 2
    assert not any(
        splits.test[i] for i, sprite in enumerate(archive.sprites) if sprite.noun in (None, "rare ring")
    )
    assert splits == split_sprites(list(archive.sprites))


def test_a_name_with_a_held_out_colour_is_held_out(archive: SpriteArchive) -> None:
    noun, color = min(split_sprites(archive.sprites).colors)
    named = Sprite("noto/named", f"{color} {noun}", noun, "noto", entry="named")
    splits = split_sprites([*archive.sprites, named])
    assert (noun, color) in splits.colors and splits.test[-1]


def test_scored_nouns_have_enough_drawings(archive: SpriteArchive) -> None:
    assert scored_nouns(archive.sprites) == sorted(SHAPES)
    views = [
        Sprite(f"3d/{view}", "cat", "cat", "3d", view=view, package="m", entry="cat.obj") for view in range(9)
    ]
    assert scored_nouns(views) == [] and {drawing_of(sprite) for sprite in views} == {"m/cat"}
    assert not any(split_sprites(views).test)


def test_a_twentieth_of_noun_pairs_is_held_out() -> None:
    words = [f"word {number}" for number in range(60)]
    pairs = [(a, b) for a in words for b in words if a < b]
    assert 0.03 < sum(is_held_out_pair(*pair) for pair in pairs) / len(pairs) < 0.07
    assert all(is_held_out_pair(a, b) == is_held_out_pair(b, a) for a, b in pairs[:50])


def test_a_collection_finds_sprites(archive: SpriteArchive) -> None:
    train = Collection(archive)
    assert train.name_of("bread") == "loaf of bread" and train.name_of("ball") == "ball"
    assert train.colors("fluent") == [] and set(train.colors("ball")) <= set(COLORS)
    for number in train.sprites("ball", "red"):
        assert archive.sprites[number].color == "red"
    random = Random(0)
    drawn = [train.draw_sprites(random, "ball", 3, style="noto") for _ in range(60)]
    assert all(archive.sprites[n].style == "noto" for numbers in drawn if numbers for n in numbers)
    assert 0.5 < sum(len(set(numbers or [])) == 1 for numbers in drawn) / 60 < 1
    assert train.draw_sprites(random, "dog", 1) is None and train.draw_noun(random, "cubist") is None
    with pytest.raises(SmaltiError, match="has no sprites of these styles"):
        only = SpriteArchive(archive.path)
        only.sprites = [sprite for sprite in archive.sprites if sprite.noun == "rare ring"]
        Collection(only, "test")


def test_things_that_look_alike() -> None:
    sprites = [
        Sprite("", "dove", "dove", "", ("bird", "animal")),
        Sprite("", "bird", "bird", "", ("animal",)),
    ]
    likeness = Likeness(sprites)
    alike = (
        "dove bird|dog hot dog|cat tiger|musical note,musical notes|car taxi|book open book|beer beer mugs"
    )
    for pair in alike.split("|"):
        first, second = pair.split(",") if "," in pair else pair.split(" ", 1)
        assert likeness.alike(first, second) and likeness.alike(second, first), pair
    for first, second in (("dove", "cat"), ("ice cream", "ice skate"), ("cat", "car"), ("bed", "beer")):
        assert not likeness.alike(first, second)


def test_genevals_classes_have_nouns() -> None:
    assert len(GENEVAL_NOUNS) == 80
    assert geneval_nouns("tv", {"television"}) == ("television",) and geneval_nouns("person", {"cat"}) == ()
    assert geneval_nouns("owl", {"owl"}) == ("owl",)
    said = {word for words in SYNONYMS.values() for word in words} | set(SYNONYMS)
    renamed = {name for name, nouns in GENEVAL_NOUNS.items() if nouns and name not in nouns}
    assert renamed <= said  # captions use GenEval's words for these nouns
