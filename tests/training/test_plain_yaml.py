"""YAML without surprises."""

from __future__ import annotations

import math
import time

import pytest

from smalti.errors import SmaltiError
from smalti.training.plain_yaml import read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("+1_000", "+1_000"),
        ("1e-3", 0.001),
        ("-.5E2", -50.0),
        ("3.", 3.0),
        ("-.inf", -math.inf),
        ("yes", "yes"),
        ("Off", "Off"),
        ("TRUE", True),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"2024"', "2024"),
        ("{a: , 'b': [], c: \"\"}", {"a": None, "b": [], "c": ""}),
        ("a: &x {k: 1}\nb: {<<: *x, l: 3}\nc: *x", {"a": {"k": 1}, "b": {"k": 1, "l": 3}, "c": {"k": 1}}),
    ],
)
def test_values_are_what_they_look_like(text: str, value: object) -> None:
    found = read_yaml(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\nb: 2\na: 3", r"the key 'a' is given twice \(line 3, column 1\)"),
        ("a: {1: x, 1: y}", "the key '1' is given twice"),
        ("[" * 100_000, "nested too deeply"),
        ("- " * 5000 + "a", "nested too deeply"),
        ("a: &a [*a]", "too large"),
        ("9" * 5000, "a number is too long"),
        ("0x" + "f" * 5000, "a number is too long"),
        ("!!int x", "is not YAML"),
        ("!!timestamp x", "is not YAML"),
        ("!!python/object:os.system x", "is not YAML"),
        ("a: b: c", "is not YAML: mapping values are not allowed here"),
    ],
)
def test_what_is_wrong_is_one_short_line(text: str, reason: str) -> None:
    with pytest.raises(SmaltiError, match=reason) as caught:
        read_yaml(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_nine_levels_of_nine_aliases_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    started = time.monotonic()
    with pytest.raises(SmaltiError, match="stands for more than 20000 values"):
        read_yaml("\n".join(lines))
    assert time.monotonic() - started < 5
