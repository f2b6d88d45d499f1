"""English of captions: articles, plurals, names, and what a caption may say about a scene."""

from __future__ import annotations

import re
from random import Random

import pytest

from smalti.worlds.objects.archive import Sprite, SpriteArchive
from smalti.worlds.objects.captions import choose_name, geneval_prompt, ground_words, write_caption
from smalti.worlds.objects.grounds import COLORS, LANDSCAPES, SKIES, Ground
from smalti.worlds.objects.language import countable, noun_phrase, plural, with_article
from smalti.worlds.objects.textures import TEXTURES
from smalti.worlds.objects.world import Objects


@pytest.mark.parametrize(
    ("name", "several"),
    [
        ("cat", "two cats"),
        ("box of popcorn", "two boxes of popcorn"),
        ("cherry", "two cherries"),
        ("toy", "two toys"),
        ("kitchen knife", "two kitchen knives"),
        ("computer mouse", "two computer mice"),
        ("snowman", "two snowmen"),
        ("ottoman", "two ottomans"),
        ("tropical fish", "two tropical fish"),
        ("four leaf clover", "two four leaf clovers"),
        ("potato", "two potatoes"),
        ("piano", "two pianos"),
        ("bus", "two buses"),
        ("die", "two dice"),
        ("pair of scissors", "two pairs of scissors"),
        ("umbrella on ground", "two umbrellas on ground"),
        ("sheep", "two sheep"),
        ("hammer and pick", "two hammers and picks"),
        ("skull and crossbones", "two skulls and crossbones"),
        ("monkey covering its eyes", "two monkeys covering their eyes"),
        ("french fries", "french fries"),
    ],
)
def test_plurals(name: str, several: str) -> None:
    assert noun_phrase(name, 2) == several


@pytest.mark.parametrize(
    "words",
    "an apple|a unicorn|a uniform|an umbrella|an urn|a ufo|a utensil|an hourglass|a house|an x-ray|an suv|a one-piece "
    "swimsuit|a ewe|an ear|a yo-yo|an SUV|a European owl|an urchin|a ukulele|a usb stick".split("|"),
)
def test_articles(words: str) -> None:
    assert with_article(words.split(" ", 1)[1]) == words


def test_adjectives_stand_before_what_is_measured() -> None:
    assert noun_phrase("loaf of bread", 3, "brown") == "three loaves of brown bread"
    assert noun_phrase("statue of liberty", 1, "green") == "a green statue of liberty"
    assert plural("statue of liberty") == "statues of liberty"
    assert noun_phrase("front of a bus") == "the front of a bus"
    assert not countable("meat on a bone") and noun_phrase("meat on a bone", 1, "red") == "red meat on a bone"


def test_the_plain_wording_is_genevals() -> None:
    include = [{"class": "bread", "count": 1}, {"class": "owl", "count": 1, "position": ["left of", 0]}]
    metadata = {"tag": "position", "include": include}
    assert geneval_prompt(metadata, ["loaf of bread", "owl"]) == "a photo of an owl left of a loaf of bread"
    counted = {"tag": "counting", "include": [{"class": "skis", "count": 2, "color": "red"}]}
    assert geneval_prompt(counted, ["pair of skis"]) == "a photo of two pairs of red skis"


def test_captions_come_in_many_wordings(archive: SpriteArchive) -> None:
    objects = Objects(archive)
    captions = [objects.scene(index).caption for index in range(700)]
    wanted = (
        "a photo of|a picture of|an image of|there are|a group of|to the left of| over | with | next to |small |large |"
        "loaf of |pair of |a toy|piece of food|emoji|3D rendering|flat icon| background| under a"
    )
    for words in wanted.split("|"):
        assert any(words in caption for caption in captions), words
    assert not [caption for caption in captions if re.search(r"  |\ba [aeiou]|\ban [^aeiou]|^ | $", caption)]
    assert max(len(caption.split()) for caption in captions) < 40


def test_a_caption_names_the_ground_that_is_seen(archive: SpriteArchive) -> None:
    objects = Objects(archive)
    for scene in map(objects.scene, range(400)):
        color = re.search(r"(?:on|against|in front of) an? (.*) background$", scene.caption)
        if color and color[1] != "checkered":
            assert scene.ground.name == color[1]
        if "brick" in scene.caption:
            assert scene.ground.name == "brick"


def test_every_ground_has_words() -> None:
    grounds = [Ground("plain", name) for name in COLORS] + [Ground("texture", name) for name in TEXTURES]
    grounds += [Ground("outdoor", name, sky, 0.5) for name in LANDSCAPES for sky in SKIES]
    for ground in grounds:
        assert re.match(r"(on|in|against|outdoors) ", ground_words(ground, Random(0)))
    assert ground_words(Ground("plain", "orange"), Random(1)).endswith("an orange background")


def test_names_never_say_another_colour() -> None:
    def names(sprite: Sprite, kinds: tuple[str, ...] = (), **entry: object) -> set[str]:
        return {
            choose_name({"class": sprite.noun, "count": 1, **entry}, [sprite], "box", Random(seed), kinds, ())
            for seed in range(200)
        }

    assert names(Sprite("", "red box", "box", "", color="red"), color="red") == {"box", "red box"}
    assert names(Sprite("", "red box", "box", "", color="blue"), color="blue") == {"box"}
    assert names(Sprite("", "red box", "box", "", color="red", recolored=True)) == {"box"}
    assert names(Sprite("", "crate", "box", ""), ("clothing", "natural thing")) == {
        "box",
        "crate",
        "piece of clothing",
    }
    caption = write_caption(
        {"tag": "colors", "include": [{"class": "box", "count": 1, "color": "red"}]},
        Random(3), ["red box"], None, "large", "on grass",
    )  # fmt: skip
    assert caption.endswith("a large red box on grass")
