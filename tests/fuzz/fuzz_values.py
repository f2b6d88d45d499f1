"""Values that people and programs get wrong, and ways to damage what was right."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

TEXTS = [
    "",
    " ",
    "x",
    "★",
    "\udcff",
    "x" * 5000,
    "\n\n",
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "0.5",
    "1.5",
    "1e400",
    "-1e308",
    "1e308",
    "1e-320",
    "4294967297",
    "9223372036854775807",
    "9223372036854775808",
    "99999999999999999999",
    "9" * 5000,
    "0x10",
    "1_0",
    "٣",
    "--",
    "none",
    "null",
    "true",
    "[]",
    "{}",
    ":",
    "a:b=c",
    "history:window=x",
    "/dev/null",
    "/dev/full",
    "/proc/self/mem",
    "..",
    ".",
    "no/such/folder",
]
"""Texts in place of an option's value, or of a value in a file."""

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    1e-320,
    float("nan"),
    float("inf"),
    "",
    "x" * 5000,
    "★\u2028",
    "1",
    [],
    [[]],
    [1, 1],
    [None],
    {},
    {"a": 1},
    {"kind": []},
]
"""Values in place of one in JSON or YAML."""


def deep(random: Random, depth: int = 0) -> Any:
    """Return lists in lists, deeper than any file needs."""
    value: Any = 1
    for _ in range(depth or random.choice((50, 150, 500))):
        value = [value]
    return value


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the paths of everything inside a value of dictionaries and lists; at most 50 entries of each."""
    found = [path] if path else []
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, entry in list(entries)[:50]:
        found += places(entry, (*path, key))
    return found


def change(random: Random, value: Any, times: int = 1) -> Any:
    """Return a copy with some entries replaced, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(times):
        *parents, last = random.choice(places(value))
        inner = value
        for key in parents:
            inner = inner[key]
        how = random.random()
        if how < 0.1:
            del inner[last]
        elif how < 0.15 and isinstance(inner, dict):
            inner[random.choice(TEXTS)] = random.choice(VALUES)
        elif how < 0.2:
            inner[last] = deep(random)
        else:
            inner[last] = copy.deepcopy(random.choice(VALUES))
        if not places(value):
            return value
    return value


def damage(random: Random, data: bytes) -> bytes:
    """Return bytes cut, with some replaced, repeated or preceded by others."""
    how = random.randrange(6)
    spot = random.randrange(len(data) + 1)
    if how == 0:
        return data[:spot]
    if how == 1:
        return data[:spot] + random.randbytes(random.randrange(1, 64)) + data[spot:]
    if how == 2:
        return random.randbytes(random.choice((0, 1, 7, 8, 9, 100, 5000)))
    if how == 3:
        return data + data
    changed = bytearray(data)
    # Headers are at the front.
    span = min(len(data), 200) if how == 4 else len(data)
    for _ in range(random.choice((1, 3, 30))):
        if span:
            changed[random.randrange(span)] = random.randrange(256)
    return bytes(changed)
