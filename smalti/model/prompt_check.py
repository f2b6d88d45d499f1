"""Whether a text can be a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smalti.errors import SmaltiError


def check_prompt(name: str, prompt: Any, encode: Callable[[str], list[int]], most: int, longest: int) -> None:
    """Raise SmaltiError unless a text can be a prompt.

    Args:
        name: name of the argument that holds the text.
        prompt: the text.
        encode: returns the ids of a text.
        most: largest number of ids.
        longest: characters of the longest entry of the vocabulary. A text may thus be known to be too long before it
            is encoded, which takes seconds and a gigabyte for megabytes of text.
    """
    if not isinstance(prompt, str):
        raise SmaltiError(f"{name} must be text, not {type(prompt).__name__}", argument=name)
    if not prompt.strip():
        raise SmaltiError(f"{name} must not be empty", argument=name)
    if len(prompt) > most * longest:
        raise SmaltiError(
            f"{name} must be at most {most} text tokens long, not {len(prompt)} characters", argument=name
        )
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # lone surrogates, which stand for bytes that are not UTF-8
        raise SmaltiError(f"{name} must be valid Unicode: {error.reason}", argument=name) from error
    count = len(encode(prompt))
    if count > most:
        raise SmaltiError(f"{name} must be at most {most} text tokens long, not {count}", argument=name)
