"""The one exception that Smalti raises for input it cannot use."""

from __future__ import annotations


class SmaltiError(ValueError):
    """Wrong input. The message is one line: what is wrong, what it was, and what it may be."""
