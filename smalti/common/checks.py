"""Checks of arguments, worded alike everywhere: the name, what it may be, what it was."""

from __future__ import annotations

import math
from typing import Any

from smalti.errors import SmaltiError


def check_whole(name: str, value: Any, minimum: int = 1) -> None:
    """Raise SmaltiError unless `value` is a whole number of at least `minimum`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise SmaltiError(f"{name} must be a whole number of at least {minimum}, not {value!r}")


def check_real(name: str, value: Any, low: float = 0, high: float = math.inf, *, above: bool = False) -> None:
    """Raise SmaltiError unless `value` is a finite number in [low, high], or in (low, high] if `above`."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (above and value == low):
        limit = f"{'above' if above else 'of at least'} {low}"
        limit += f" and at most {high}" if high < math.inf else ""
        raise SmaltiError(f"{name} must be a finite number {limit}, not {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise SmaltiError unless `value` is one of `choices`."""
    if value not in choices:
        raise SmaltiError(f"{name} must be {' or '.join(repr(choice) for choice in choices)}, not {value!r}")
