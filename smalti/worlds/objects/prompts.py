"""Prompts over things in the format of GenEval's `evaluation_metadata.jsonl`.

A prompt is a dict with GenEval's keys `tag`, `include`, `exclude` (counting only) and `prompt`. Smalti adds `held_out`:
whether the prompt asks for a noun in a colour, or for two nouns, that training never shows together.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from random import Random
from typing import Any

from smalti.common.checks import check_choice, check_whole
from smalti.errors import SmaltiError
from smalti.worlds.arguments import SPLITS
from smalti.worlds.layout import RELATIONS
from smalti.worlds.objects.captions import geneval_prompt
from smalti.worlds.objects.language import countable
from smalti.worlds.objects.splits import is_held_out_pair
from smalti.worlds.objects.vocabulary import Vocabulary
from smalti.worlds.tasks import TAGS

HELD_OUT_SHARE = 0.2
"""Fraction of the prompts with colours or two nouns that ask for a held-out pair, in the split "test"."""

Prompt = dict[str, Any]

_ATTEMPTS = 2000


def objects_prompts(vocabulary: Vocabulary, count: int, seed: int = 0, split: str = "test") -> list[Prompt]:
    """Return prompts of GenEval's six tasks, worded "a photo of ...", one task after the other.

    A noun comes again only after all others of its task. The same arguments always give the same prompts.

    Args:
        vocabulary: nouns to ask for.
        count: number of prompts, spread evenly over the tasks.
        seed: seed of the prompts.
        split: "train" asks for nothing that is held out. "test" asks for held-out pairs in a fifth of the prompts with
            colours or two nouns.

    Raises:
        SmaltiError: an argument is out of its range, or the vocabulary is too small.

    Example:
        >>> from smalti.worlds.objects.vocabulary import Noun
        >>> nouns = {noun: Noun(noun, ("red", "blue"), ()) for noun in ("apple", "kite", "pen")}
        >>> prompts = objects_prompts(Vocabulary(nouns, frozenset()), 6, split="train")
        >>> prompts[2]["tag"], prompts[2]["prompt"]
        ('counting', 'a photo of four pens')
    """
    check_whole("count", count)
    check_choice("split", split, SPLITS)
    prompts: list[Prompt] = []
    for place, tag in enumerate(TAGS):
        # If the count is not a multiple of the tasks, the first ones have one prompt more.
        number = count // len(TAGS) + (place < count % len(TAGS))
        random = Random(f"smalti objects prompts {seed} {split} {tag}")
        paired = tag in ("two_object", "colors", "position", "color_attr")
        held_out = round(number * HELD_OUT_SHARE) if split == "test" and paired else 0
        wanted = [place < held_out for place in range(number)]
        random.shuffle(wanted)
        prompts += _task_prompts(vocabulary, tag, wanted, random)
    return prompts


def _task_prompts(vocabulary: Vocabulary, tag: str, wanted: list[bool], random: Random) -> Iterator[Prompt]:
    """Yield one prompt for each entry of `wanted`, which says whether it asks for a held-out pair."""
    nouns = _shuffled(list(vocabulary.nouns), random)
    pairs = _shuffled(sorted(vocabulary.held_out), random)
    for held_out in wanted:
        include = held_out and _include(vocabulary, tag, True, nouns, pairs, random)
        # A small vocabulary may have no held-out pair.
        include = include or _include(vocabulary, tag, False, nouns, pairs, random)
        if not include:
            raise SmaltiError(
                f"vocabulary has too few nouns for prompts of the task {tag!r}", argument="vocabulary"
            )
        prompt: Prompt = {"tag": tag, "include": include}
        if tag == "counting":
            prompt["exclude"] = [{"class": include[0]["class"], "count": include[0]["count"] + 1}]
        names = [vocabulary.nouns[entry["class"]].name for entry in include]
        yield {
            **prompt,
            "prompt": geneval_prompt(prompt, names),
            "held_out": _is_held_out(vocabulary, include),
        }


def _include(
    vocabulary: Vocabulary,
    tag: str,
    held_out: bool,
    nouns: Iterator[str],
    pairs: Iterator[tuple[str, str]],
    random: Random,
) -> list[dict[str, Any]] | None:
    """Return the entries of one prompt, or None if none is found."""
    colored = tag in ("colors", "color_attr")
    for _ in range(_ATTEMPTS):
        chosen = [next(nouns) for _ in range(1 if tag in ("single_object", "counting", "colors") else 2)]
        color: str | None = None
        if held_out and colored:
            chosen[0], color = next(pairs, ("", None))
        if not _fits(vocabulary, chosen, together=held_out and not colored, tag=tag):
            continue
        include: list[dict[str, Any]] = [{"class": noun, "count": 1} for noun in chosen]
        if colored:
            colors = _draw_colors(vocabulary, chosen, color, random)
            if colors is None:
                continue
            for entry, name in zip(include, colors, strict=True):
                entry["color"] = name
        if tag == "counting":
            include[0]["count"] = random.randint(2, 4)
        if tag == "position":
            include[1]["position"] = [random.choice(list(RELATIONS)), 0]
        if len(include) == 2 and tag != "position":
            random.shuffle(include)
        return include
    return None


def _is_held_out(vocabulary: Vocabulary, include: list[dict[str, Any]]) -> bool:
    """Tell whether an entry is a held-out pair of noun and colour, or two entries are of nouns."""
    if any((entry["class"], entry.get("color")) in vocabulary.held_out for entry in include):
        return True
    return len(include) == 2 and is_held_out_pair(include[0]["class"], include[1]["class"])


def _fits(vocabulary: Vocabulary, chosen: list[str], together: bool, tag: str) -> bool:
    """Tell whether nouns may be asked for in one prompt, as a held-out pair if `together`."""
    if any(noun not in vocabulary.nouns for noun in chosen):
        return False
    if len(chosen) == 2:
        first, second = chosen
        alike = first == second or vocabulary.likeness.alike(first, second)
        return not alike and is_held_out_pair(first, second) == together
    return tag != "counting" or countable(vocabulary.nouns[chosen[0]].name)


def _draw_colors(
    vocabulary: Vocabulary, chosen: list[str], first: str | None, random: Random
) -> list[str] | None:
    """Return different colours for nouns, `first` for the first one if given; None if a noun has none."""
    colors: list[str] = [] if first is None else [first]
    for noun in chosen[len(colors) :]:
        options = [color for color in vocabulary.nouns[noun].colors if color not in colors]
        if not options:
            return None
        colors.append(random.choice(options))
    return colors


def _shuffled(items: list[Any], random: Random) -> Iterator[Any]:
    """Return the items in a random order, again and again."""
    random.shuffle(items)
    return cycle(items)
