"""English for the names of things: articles and plurals.

Names in an archive can be counted: "cat", "fire engine", "loaf of bread", "pair of scissors". The head of a name is the
last word before a preposition; it takes the plural.
"""

from __future__ import annotations

import re
from functools import lru_cache

from smalti.worlds.wording import NUMBERS

# Words that end the head of a name: prepositions, and participles as in "monkey covering its eyes".
_PREPOSITIONS = frozenset(
    "of with in on at over under behind for from and without to by around above below covering holding".split()
)

# Heads that no number or article may stand before, beside words in -s: "money with wings", "french fries".
_MASS = frozenset("clothes clothing furniture liquid luggage meat money people".split())
# Words in -s that are singular, beside those in -ss and -us.
_SINGULAR = frozenset(
    """atlas axis bias canvas chassis clematis cosmos gas iris lens mars pancreas rhinoceros series
    tennis trellis""".split()
)

_IRREGULAR = {
    "aircraft": "aircraft",
    "bison": "bison",
    "cactus": "cacti",
    "calf": "calves",
    "child": "children",
    "deer": "deer",
    "dice": "dice",
    "die": "dice",
    "elf": "elves",
    "fish": "fish",
    "foot": "feet",
    "goose": "geese",
    "half": "halves",
    "hoof": "hooves",
    "knife": "knives",
    "leaf": "leaves",
    "loaf": "loaves",
    "man": "men",
    "moose": "moose",
    "mouse": "mice",
    "ox": "oxen",
    "person": "people",
    "scarf": "scarves",
    "series": "series",
    "sheaf": "sheaves",
    "sheep": "sheep",
    "shelf": "shelves",
    "shrimp": "shrimp",
    "squid": "squid",
    "tooth": "teeth",
    "wife": "wives",
    "wolf": "wolves",
    "woman": "women",
}
# Words that end in one of these follow it ("snowman", "pufferfish"), but for a few.
_ENDINGS = ("man", "woman", "fish", "person", "child", "mouse", "shelf", "knife", "goose", "tooth")
_NO_COMPOUNDS = frozenset("human ottoman talisman".split())
_ES_AFTER_O = frozenset(
    "buffalo domino echo hero mango mosquito potato tomato tornado torpedo volcano".split()
)

_AN = re.compile(
    r"[aeio]|u(?!ni(?!m|n)|k|t[aei]|fo|s[aeub]|r[ai]n)|hour|honest|heir|x-|suv\b|lcd\b|mp3|led\b"
)
_A = re.compile(r"eu|ewe|one\b|one-|once\b")


@lru_cache(8192)
def plural(name: str) -> str:
    """Return the plural of a name that can be counted.

    Example:
        >>> plural("fire engine"), plural("computer mouse"), plural("loaf of bread"), plural("cherry")
        ('fire engines', 'computer mice', 'loaves of bread', 'cherries')
    """
    before, head, behind = _split(name)
    if behind.startswith(" and "):
        second = behind.removeprefix(" and ")
        behind = f" and {plural(second) if countable(second) else second}"
    return f"{before}{_plural_word(head)}{behind.replace(' its ', ' their ')}"


@lru_cache(8192)
def countable(name: str) -> bool:
    """Tell whether a number or an article may stand before a name.

    Example:
        >>> countable("cat"), countable("pair of skis"), countable("skis"), countable("cactus")
        (True, True, False, True)
    """
    head = _split(name)[1]
    plural_already = re.search(r"[^sux']s$", head) and head not in _SINGULAR
    return head not in _MASS and not plural_already


def noun_phrase(name: str, count: int = 1, adjectives: str = "") -> str:
    """Return a name in words, with a number or an article where it takes one.

    Adjectives stand before what a name measures out: "a loaf of brown bread", but "a large statue of liberty".

    Args:
        name: name of a thing, in the singular.
        count: number of things, 1 to 4. A name that cannot be counted ignores it.
        adjectives: words before the name, such as "red".

    Example:
        >>> noun_phrase("owl", 1, "red"), noun_phrase("owl"), noun_phrase("owl", 3), noun_phrase("skis", 1, "blue")
        ('a red owl', 'an owl', 'three owls', 'blue skis')
        >>> noun_phrase("pair of scissors", 1, "blue"), noun_phrase("pair of scissors", 2, "blue")
        ('a pair of blue scissors', 'two pairs of blue scissors')
    """
    measure, content = split_measure(name)
    if measure and adjectives:
        words = f"{plural(measure) if count > 1 else measure} of {adjectives} {content}"
    else:
        words = f"{adjectives} {plural(name) if count > 1 and countable(name) else name}".strip()
    if not countable(name):
        return words
    return f"{NUMBERS[count]} {words}" if count > 1 else with_article(words)


def split_measure(name: str) -> tuple[str, str]:
    """Return the measure of a name and what it measures out, or "" and the name.

    Example:
        >>> split_measure("loaf of bread"), split_measure("statue of liberty"), split_measure("cat")
        (('loaf', 'bread'), ('', 'statue of liberty'), ('', 'cat'))
    """
    measure, of, content = name.partition(" of ")
    return (measure, content) if of and measure in _MEASURES else ("", name)


_MEASURES = frozenset(
    """bag ball bar basket bottle bowl box bulb bunch can carton cob cup drop ear glass group head jar jug loaf log mug
    pack pair pan piece pile plate pot roll set sheaf sheet skewer slice spool sprig stack stick strand strip tray tube
    wedge""".split()
)


@lru_cache(8192)
def with_article(words: str) -> str:
    """Return words behind an article.

    Example:
        >>> [with_article(word) for word in ("hourglass", "unicorn", "umbrella", "x-ray", "front of a bus")]
        ['an hourglass', 'a unicorn', 'an umbrella', 'an x-ray', 'the front of a bus']
    """
    lower = words.lower()
    if lower.startswith("front of "):
        return f"the {words}"
    return f"an {words}" if _AN.match(lower) and not _A.match(lower) else f"a {words}"


def _split(name: str) -> tuple[str, str, str]:
    """Return what stands before the head, the head, and what stands behind it; joined they are the name."""
    words = name.split(" ")
    last = (
        next((place for place, word in enumerate(words) if word in _PREPOSITIONS and place), len(words)) - 1
    )
    before, behind = " ".join(words[:last]), " ".join(words[last + 1 :])
    return before + " " if before else "", words[last], " " + behind if behind else ""


def _plural_word(word: str) -> str:
    for ending, plural_ending in _IRREGULAR.items():
        compound = ending in _ENDINGS and word.endswith(ending) and word not in _NO_COMPOUNDS
        if word == ending or compound:
            return word[: -len(ending)] + plural_ending
    if re.search(r"(s|x|z|ch|sh)$", word) or word in _ES_AFTER_O:
        return word + "es"
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + "s"
