"""Checks of arguments, worded alike everywhere: the name, what is allowed, the value."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from smalti.errors import SmaltiError

LARGEST_SEED = 2**63 - 1
"""Largest seed that every command, suite and configuration takes."""

LARGEST_INTEGER = 2**63 - 1
_LONGEST_VALUE = 80


def quoted(value: Any, longest: int = _LONGEST_VALUE) -> str:
    """Return a value as it stands in a message: on one line, and cut where it is long.

    Example:
        >>> quoted("x" * 100)
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."
    """
    if isinstance(value, str | bytes):
        # What is cut need not be escaped first.
        value = value[: longest + 1]
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        text = "a number of thousands of digits"
    text = " ".join(text.splitlines())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def plain(value: Any) -> Any:
    """Return the Python number of a NumPy number, or of an array or a tensor without dimensions; else `value`.

    Example:
        >>> import numpy as np
        >>> plain(np.int64(3)), plain(np.array(0.5)), plain("3")
        (3, 0.5, '3')
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value


def check_whole(name: str, value: Any, minimum: int = 1, maximum: int | None = None) -> int:
    """Return a whole number of at least `minimum` and at most `maximum` as an int, or raise SmaltiError.

    Without a maximum it is the largest number of 64 bits, which is all that PyTorch takes.
    """
    number = plain(value)
    known = isinstance(number, int) and not isinstance(number, bool)
    if not known or not minimum <= number <= (LARGEST_INTEGER if maximum is None else maximum):
        huge = known and number > LARGEST_INTEGER
        limit = f"from {minimum} to {maximum}" if maximum is not None else f"of at least {minimum}"
        limit += " and below 2⁶³" if maximum is None and huge else ""
        raise SmaltiError(f"{name} must be a whole number {limit}, not {quoted(number)}", argument=name)
    return int(number)


def check_real(
    name: str, value: Any, low: float = 0, high: float = math.inf, *, above: bool = False
) -> float:
    """Return a finite number in [low, high], or in (low, high] if `above`, or raise SmaltiError."""
    number = plain(value)
    if not _is_finite(number) or not low <= number <= high or (above and number == low):
        limit = f"{'above' if above else 'of at least'} {low}"
        limit += f" and at most {high}" if high < math.inf else ""
        raise SmaltiError(f"{name} must be a finite number {limit}, not {quoted(number)}", argument=name)
    checked: float = number
    return checked


def check_pair(name: str, value: Any, low: float = 0, high: float = 1) -> tuple[float, float]:
    """Return `value` as a tuple, or raise SmaltiError unless it is two rising numbers from `low` to `high`."""
    if getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise SmaltiError(
            f"{name} must be two numbers from {low} to {high}, not {quoted(value)}", argument=name
        )
    try:
        first = check_real(name, value[0], low, high)
        return first, check_real(name, value[1], first, high)
    except SmaltiError:
        raise SmaltiError(
            f"{name} must be two rising numbers from {low} to {high}, not {quoted(value)}", argument=name
        ) from None


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise SmaltiError unless `value` is one of `choices`."""
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise SmaltiError(f"{name} must be {allowed}, not {quoted(value)}", argument=name)


def check_flag(name: str, value: Any) -> bool:
    """Return True or False, or raise SmaltiError for any other value."""
    flag = plain(value)
    if not isinstance(flag, bool):
        raise SmaltiError(f"{name} must be True or False, not {quoted(value)}", argument=name)
    return flag


def check_path(name: str, value: Any) -> Path:
    """Return a path, or raise SmaltiError unless `value` is one or a text."""
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise SmaltiError(
            f"{name} must be the name of a file or a folder, not {quoted(value)}", argument=name
        )
    return Path(value)


def check_seed(seed: Any, name: str = "seed") -> int:
    """Return a whole number from 0 to 2⁶³ − 1 as an int, or raise SmaltiError."""
    return check_whole(name, seed, 0, LARGEST_SEED)


def _is_finite(value: Any) -> bool:
    """Return whether a value is a finite number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
