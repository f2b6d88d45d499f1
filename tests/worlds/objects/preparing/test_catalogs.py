"""The catalogues that come with the package: what they promise, and that they fit together."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from smalti.worlds.objects.preparing import record
from smalti.worlds.objects.preparing.nouns import hypernyms, kinds
from smalti.worlds.objects.preparing.packages import packages
from smalti.worlds.objects.preparing.parts import plan

LARGEST = 300_000  # bytes of all catalogues
ENTRIES = {style: [entry for part in plan(style) for entry in part.entries] for style in packages()}


def test_there_is_enough() -> None:
    assert sum(map(len, ENTRIES.values())) >= 7_000
    assert len({entry.noun for entries in ENTRIES.values() for entry in entries if entry.noun}) >= 1_000
    assert 12 * len(ENTRIES["3d-model"]) >= 9_000


def test_the_catalogues_are_small() -> None:
    assert sum(path.stat().st_size for path in record.CATALOGS.iterdir()) < LARGEST


def test_packages_are_described() -> None:
    assert len(packages()) == 11
    for style, package in packages().items():
        assert package.style == style and package.kind in ("npm", "apt")
        assert re.fullmatch(r"[0-9a-f]{64}", package.sha256)
        assert package.url.startswith("https://") and package.licence and package.creator
    assert len({package.file_name for package in packages().values()}) == 11


@pytest.mark.parametrize("style", packages())
def test_entries_differ(style: str) -> None:
    assert len({entry.entry for entry in ENTRIES[style]}) == len(ENTRIES[style]) > 200


@pytest.mark.parametrize("style", packages())
def test_every_noun_has_kinds(style: str) -> None:
    assert {entry.noun for entry in ENTRIES[style]} <= set(kinds())


def test_every_kind_has_nouns_that_are_used() -> None:
    used = {entry.noun for entries in ENTRIES.values() for entry in entries}
    assert set(kinds()) <= used


def test_names_and_nouns_are_words() -> None:
    for entries in ENTRIES.values():
        for entry in entries:
            for text in (entry.name, entry.noun):
                assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9ñ' -]*", text or ""), entry


def test_a_name_has_one_noun() -> None:
    nouns = defaultdict(set)
    for entries in ENTRIES.values():
        for entry in entries:
            nouns[entry.name].add(entry.noun)
    assert {name: found for name, found in nouns.items() if len(found) > 1} == {}


def test_names_have_no_colors() -> None:
    colors = re.compile(r"\b(red|orange|yellow|green|blue|purple|pink|brown|black|white|gr[ae]y)\b")
    names = {entry.name for entries in ENTRIES.values() for entry in entries}
    assert {name for name in names if colors.search(name)} <= {
        "orange",
        "slice of orange",
        "glass of orange juice",
        "white cane",
        "red envelope",
    }


def test_names_are_in_the_singular() -> None:
    singular = re.compile(r"(ss|us|ros|ais|tis|tops|ress|pass)$|^abacus|with|covering|and")
    names = {entry.name.partition(" of ")[0] for entries in ENTRIES.values() for entry in entries}
    assert {name for name in names if name.endswith("s") and not singular.search(name)} == set()


def test_hypernyms_go_from_near_to_far() -> None:
    assert hypernyms("apple") == ("fruit", "food")
    assert hypernyms("duck") == ("bird", "animal")
    assert hypernyms("fire engine") == ("road vehicle", "vehicle")
    assert hypernyms("nothing of the kind") == hypernyms(None) == ()
    parents = {names[0]: names for names in kinds().values()}
    for names in kinds().values():
        for number, name in enumerate(names[1:], start=1):
            assert parents.get(name, names[number:]) == names[number:]


def test_there_are_many_kinds() -> None:
    counts = Counter(name for names in kinds().values() for name in names)
    assert min(counts[name] for name in ("animal", "food", "vehicle", "furniture", "tool", "plant")) >= 20
