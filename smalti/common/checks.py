"""Checks of arguments, worded alike everywhere: the name, what is allowed, the value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from smalti.errors import SmaltiError


def check_whole(name: str, value: Any, minimum: int = 1) -> None:
    """Raise SmaltiError unless `value` is a whole number of at least `minimum`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise SmaltiError(
            f"{name} must be a whole number of at least {minimum}, not {value!r}", argument=name
        )


def check_real(name: str, value: Any, low: float = 0, high: float = math.inf, *, above: bool = False) -> None:
    """Raise SmaltiError unless `value` is a finite number in [low, high], or in (low, high] if `above`."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (above and value == low):
        limit = f"{'above' if above else 'of at least'} {low}"
        limit += f" and at most {high}" if high < math.inf else ""
        raise SmaltiError(f"{name} must be a finite number {limit}, not {value!r}", argument=name)


def check_pair(name: str, value: Any, low: float = 0, high: float = 1) -> tuple[float, float]:
    """Return `value` as a tuple, or raise SmaltiError unless it is two rising numbers from `low` to `high`."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise SmaltiError(f"{name} must be two numbers from {low} to {high}, not {value!r}", argument=name)
    try:
        check_real(name, value[0], low, high)
        check_real(name, value[1], value[0], high)
    except SmaltiError:
        raise SmaltiError(
            f"{name} must be two rising numbers from {low} to {high}, not {value!r}", argument=name
        ) from None
    return value[0], value[1]


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise SmaltiError unless `value` is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise SmaltiError(
            f"{name} must be {' or '.join(repr(choice) for choice in choices)}, not {value!r}", argument=name
        )
