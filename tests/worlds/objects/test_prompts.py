"""Prompts over things, their vocabulary, and ground-truth renderings."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from sprites import SHAPES

from smalti.errors import SmaltiError
from smalti.worlds.objects.archive import SpriteArchive
from smalti.worlds.objects.prompts import objects_prompts
from smalti.worlds.objects.splits import is_held_out_pair
from smalti.worlds.objects.truth import ground_truth
from smalti.worlds.objects.vocabulary import Noun, Vocabulary
from smalti.worlds.tasks import TAGS


@pytest.fixture(scope="module")
def vocabulary(archive: SpriteArchive) -> Vocabulary:
    return Vocabulary.of(archive)


def test_a_vocabulary_survives_json(vocabulary: Vocabulary) -> None:
    assert list(vocabulary.nouns) == sorted(SHAPES) and vocabulary.held_out
    assert vocabulary.nouns["bread"].name == "loaf of bread" and vocabulary.nouns["bread"].kinds == ("food",)
    assert Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json()))) == vocabulary
    for noun, color in vocabulary.held_out:
        assert color not in vocabulary.nouns[noun].colors
    with pytest.raises(SmaltiError, match="vocabulary must have nouns"):
        Vocabulary.from_json({"nouns": [1]})


def test_prompts_are_spread_over_the_tasks(vocabulary: Vocabulary) -> None:
    prompts = objects_prompts(vocabulary, 62, seed=5)
    tags = Counter(prompt["tag"] for prompt in prompts)
    assert list(tags) == list(TAGS) and list(tags.values()) == [11, 11, 10, 10, 10, 10]
    assert prompts == objects_prompts(vocabulary, 62, seed=5) != objects_prompts(vocabulary, 62, seed=6)
    singles = [prompt["include"][0]["class"] for prompt in prompts if prompt["tag"] == "single_object"]
    assert set(singles[:8]) == set(SHAPES)
    assert all(prompt["prompt"].startswith("a photo of ") for prompt in prompts)


@pytest.mark.parametrize("split", ["train", "test"])
def test_held_out_pairs_are_marked(vocabulary: Vocabulary, split: str) -> None:
    prompts = objects_prompts(vocabulary, 120, split=split)
    for prompt in prompts:
        include = prompt["include"]
        pairs = any((entry["class"], entry.get("color")) in vocabulary.held_out for entry in include)
        nouns = len(include) == 2 and is_held_out_pair(*(entry["class"] for entry in include))
        assert prompt["held_out"] == (pairs or nouns)
        assert len({entry["color"] for entry in include if "color" in entry}) in (0, len(include))
    paired = [prompt["held_out"] for prompt in prompts if prompt["tag"] in ("colors", "color_attr")]
    assert sum(paired) / len(paired) == (0.2 if split == "test" else 0)


def test_ground_truth_shows_what_prompts_ask_for(archive: SpriteArchive, vocabulary: Vocabulary) -> None:
    prompts = objects_prompts(vocabulary, 24)
    images = list(ground_truth(archive, prompts, size=48, lattice=16))
    assert len(images) == 24 and {image.shape for image in images} == {(48, 48, 3)}
    again = next(ground_truth(archive, prompts, size=48, lattice=16))
    assert (images[0] == again).all()
    impossible = [
        {"tag": "colors", "include": [{"class": "ball", "count": 1, "color": "pink"}], "prompt": ""}
    ]
    with pytest.raises(SmaltiError, match="not 'pink ball'"):
        list(ground_truth(archive, impossible))


def test_a_vocabulary_can_be_too_small() -> None:
    with pytest.raises(SmaltiError, match="too few nouns for prompts of the task 'two_object'"):
        objects_prompts(Vocabulary({"cat": Noun("cat", (), ())}, frozenset()), 12)
    with pytest.raises(SmaltiError, match="count must be"):
        objects_prompts(Vocabulary({}, frozenset()), 0)
