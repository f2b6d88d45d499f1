"""Identifiers that the server makes: 26 letters and digits, which nobody guesses and which name no file elsewhere."""

from __future__ import annotations

import re
import secrets

_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH = 26
_PATTERN = re.compile(f"[a-z0-9]{{{_LENGTH}}}")


def new_id() -> str:
    """Return a new identifier with 134 random bits.

    Example:
        >>> len(new_id()), is_id(new_id()), is_id("../../etc/passwd")
        (26, True, False)
    """
    return "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


def is_id(text: str) -> bool:
    """Return whether a text looks like an identifier of this server."""
    return _PATTERN.fullmatch(text) is not None
