"""Prompts over the nouns that the scorer claims, in the format of GenEval's `evaluation_metadata.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import cycle, islice
from random import Random
from typing import Any

from smalti.errors import SmaltiError
from smalti.evaluation import geneval
from smalti.evaluation.geneval import PAIR_TAGS, Prompt
from smalti.evaluation.suites.objects.scorer import Knowledge
from smalti.worlds.layout import RELATIONS
from smalti.worlds.objects.archive import Sprite
from smalti.worlds.objects.captions import geneval_prompt
from smalti.worlds.objects.language import countable
from smalti.worlds.objects.likeness import Likeness
from smalti.worlds.objects.splits import COLOR_NAMES
from smalti.worlds.tasks import TAGS

HELD_OUT_SHARE = 0.2
"""Fraction of the prompts about colours that ask for a held-out pair."""

_ATTEMPTS = 200

Include = list[dict[str, Any]]


def object_prompts(count: int, seed: int, knowledge: Knowledge) -> list[Prompt]:
    """Return prompts of GenEval's six tasks, worded "a photo of ...", spread evenly over the tasks.

    A noun repeats in a task only after most others. The same arguments always give the same prompts.

    Args:
        count: number of prompts.
        seed: seed of the prompts.
        knowledge: what the scorer claims.

    Raises:
        SmaltiError: the scorer claims too few nouns for a task.
    """
    prompts = []
    for tag, number in zip(TAGS, geneval.spread(count), strict=True):
        random = Random(f"smalti object prompts {seed} {tag}")
        for include, held_out in _includes(tag, number, random, knowledge):
            prompt: Prompt = {"tag": tag, "include": include}
            if tag == "counting":
                prompt["exclude"] = [{"class": include[0]["class"], "count": include[0]["count"] + 1}]
            names = [knowledge.name_of(entry["class"]) for entry in include]
            prompts.append({**prompt, "prompt": geneval_prompt(prompt, names), "held_out": held_out})
    return prompts


def check_prompt(prompt: Any) -> None:
    """Raise SmaltiError unless a prompt has GenEval's format; its classes may be any text."""
    geneval.check_prompt(prompt, None, COLOR_NAMES)


def _includes(tag: str, count: int, random: Random, knowledge: Knowledge) -> list[tuple[Include, bool]]:
    """Return `count` lists `include` of a task, and whether each has a held-out pair."""
    likeness = Likeness(
        Sprite(noun, noun, noun, "", tuple(knowledge.kinds.get(noun, ()))) for noun in knowledge.claimed
    )
    if tag in PAIR_TAGS:
        return _colored(tag, count, random, knowledge, likeness)
    nouns = list(knowledge.claimed)
    if tag == "counting":
        nouns = [noun for noun in nouns if countable(knowledge.name_of(noun))]
    firsts = _endless(nouns, random, tag)
    made: list[tuple[Include, bool]] = []
    for index in range(count):
        first = next(firsts)
        include = [{"class": first, "count": 2 + index % 3 if tag == "counting" else 1}]
        if tag in ("two_object", "position"):
            second = _other(lambda random: random.choice(nouns), first, random, likeness, tag)
            include.append({"class": second, "count": 1})
            if tag == "position":
                include[1]["position"] = [list(RELATIONS)[index % len(RELATIONS)], 0]
        made.append((include, False))
    return made


def _colored(
    tag: str, count: int, random: Random, knowledge: Knowledge, likeness: Likeness
) -> list[tuple[Include, bool]]:
    """Return lists `include` of things with colours, a fifth of them with a held-out pair."""
    seen = [(noun, color) for noun in knowledge.claimed for color in knowledge.colors.get(noun, ())]
    unseen = list(knowledge.held_out)
    held_out = round(count * HELD_OUT_SHARE) if unseen else 0
    made: list[tuple[Include, bool]] = []
    for pairs, number in ((unseen, held_out), (seen, count - held_out)):
        for noun, color in islice(_endless(pairs, random, tag), number) if number else ():
            include = [{"class": noun, "count": 1, "color": color}]
            if tag == "color_attr":
                include.append(_with_other_color(noun, color, seen, random, likeness))
                if random.random() < 0.5:
                    include.reverse()
            made.append((include, pairs is unseen))
    random.shuffle(made)
    return made


def _with_other_color(
    noun: str, color: str, seen: list[tuple[str, str]], random: Random, likeness: Likeness
) -> dict[str, Any]:
    """Return an entry for a thing of another class in another colour, a pair that training shows."""
    others = [pair for pair in seen if pair[1] != color]
    for _ in range(_ATTEMPTS if others else 0):
        other, its_color = random.choice(others)
        if other != noun and not likeness.alike(noun, other):
            return {"class": other, "count": 1, "color": its_color}
    raise _too_few("color_attr")


def _other(draw: Callable[[Random], str], noun: str, random: Random, likeness: Likeness, tag: str) -> str:
    """Return a noun that is not like another."""
    for _ in range(_ATTEMPTS):
        other = draw(random)
        if other != noun and not likeness.alike(noun, other):
            return other
    raise _too_few(tag)


def _endless(items: Collection[Any], random: Random, tag: str) -> Any:
    """Return an endless iterator over items in random order."""
    if not items:
        raise _too_few(tag)
    return cycle(random.sample(list(items), len(items)))


def _too_few(tag: str) -> SmaltiError:
    return SmaltiError(f"the scorer claims too few nouns for prompts of the task {tag!r}", argument="scorer")
