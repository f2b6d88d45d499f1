"""What prompts need to know about an archive, ready for JSON: nouns, their names, colours and kinds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from smalti.common.files import read_lines
from smalti.errors import SmaltiError
from smalti.worlds.objects.archive import Sprite, SpriteArchive
from smalti.worlds.objects.collection import Collection
from smalti.worlds.objects.likeness import Likeness


@dataclass(frozen=True)
class Noun:
    """A noun that scores know.

    Attributes:
        name: the noun in words that a number may stand before, such as "loaf of bread".
        colors: colours that training shows it in.
        kinds: kinds of things that it is.
    """

    name: str
    colors: tuple[str, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """Nouns that scores know, and the pairs of noun and colour that training never shows.

    Attributes:
        nouns: the nouns, sorted.
        held_out: held-out pairs of noun and colour.

    Example:
        >>> vocabulary = Vocabulary({"owl": Noun("owl", ("white",), ("bird",))}, frozenset({("owl", "red")}))
        >>> Vocabulary.from_json(vocabulary.to_json()) == vocabulary
        True
    """

    nouns: dict[str, Noun]
    held_out: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, archive: SpriteArchive) -> Vocabulary:
        """Return the vocabulary of an archive."""
        train = Collection(archive)
        kinds: dict[str, set[str]] = {}
        for sprite in archive.sprites:
            if sprite.noun:
                kinds.setdefault(sprite.noun, set()).update(sprite.hypernyms)
        nouns = {
            noun: Noun(train.name_of(noun), tuple(train.colors(noun)), tuple(sorted(kinds[noun])))
            for noun in train.scored
        }
        return cls(nouns, train.splits.colors)

    def only(self, nouns: Iterable[str]) -> Vocabulary:
        """Return the vocabulary of those of its nouns that are among `nouns`.

        Raises:
            SmaltiError: none is.
        """
        wanted = set(nouns)
        found = {noun: known for noun, known in self.nouns.items() if noun in wanted}
        if not found:
            raise SmaltiError("nouns must have one that the scorer claims", argument="nouns")
        return Vocabulary(found, frozenset(pair for pair in self.held_out if pair[0] in found))

    @cached_property
    def likeness(self) -> Likeness:
        """Nouns that are alike."""
        return Likeness(Sprite(noun, noun, noun, "", found.kinds) for noun, found in self.nouns.items())

    def to_json(self) -> dict[str, Any]:
        """Return an object for JSON."""
        nouns = {
            noun: [found.name, list(found.colors), list(found.kinds)] for noun, found in self.nouns.items()
        }
        return {"nouns": nouns, "held_out": sorted(map(list, self.held_out))}

    @classmethod
    def from_json(cls, value: Any) -> Vocabulary:
        """Return the vocabulary of an object that `to_json` made.

        Raises:
            SmaltiError: it is no such object.
        """
        try:
            nouns = {
                str(noun): Noun(str(name), tuple(colors), tuple(kinds))
                for noun, (name, colors, kinds) in value["nouns"].items()
            }
            return cls(nouns, frozenset((str(noun), str(color)) for noun, color in value["held_out"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SmaltiError("vocabulary must have nouns and held_out pairs") from error


def read_nouns(path: str | Path) -> list[str]:
    """Read a file of nouns, one a line.

    Raises:
        SmaltiError: the file is missing, is no text, or has no noun.
    """
    nouns = read_lines(path)
    if not nouns:
        raise SmaltiError(f"nouns must be a file with a noun a line, and {path} has none", argument="nouns")
    return nouns
