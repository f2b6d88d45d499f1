"""The one exception that Smalti raises for input it cannot use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_MESSAGE = 290
"""Most characters of a message, so that it stays below 300 with the program's name in front."""

_LEAST_WORD = 40  # characters that stay of a word that is cut


def one_line(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """Return a text on one line. What is too long loses the middles of its longest words, then its own.

    A path or a value of thousands of letters thus leaves room for what is wrong with it.

    Example:
        >>> one_line("a" * 1000 + " is not a folder", 60)
        'aaaaaaaaaaaaaaaaaaaaaaaaaaaa...aaaaaaaaaaaaa is not a folder'
    """
    text = " ".join(text.split())
    while len(text) > longest:
        word = max(re.finditer(r"\S+", text), key=lambda found: len(found[0]))
        kept = max(len(word[0]) - 3 - (len(text) - longest), _LEAST_WORD)
        if kept + 3 >= len(word[0]):
            return text[: longest - 3 - longest // 3] + "..." + text[-(longest // 3) :]
        tail = kept // 3
        text = text[: word.start() + kept - tail] + "..." + text[word.end() - tail :]
    return text


class SmaltiError(ValueError):
    """Wrong input. The message is one line: what is wrong, its value, and what is allowed.

    Attributes:
        argument: name of the wrong argument, which starts the message; None if no argument is at fault.

    Example:
        >>> raise SmaltiError("steps must be at least 1, not 0", argument="steps")
        Traceback (most recent call last):
        smalti.errors.SmaltiError: steps must be at least 1, not 0
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(one_line(message))
        self.argument = argument

    def named(self, name: str) -> str:
        """Return the message with another name for the argument, such as that of a command-line option."""
        message = str(self)
        if self.argument is None or not message.startswith(self.argument):
            return message
        return name + message.removeprefix(self.argument)


@contextmanager
def renamed(**names: str) -> Iterator[None]:
    """Give arguments in errors of the block the names that the caller has for them.

    Example:
        >>> with renamed(tokens="latents"):
        ...     raise SmaltiError("tokens must be int64", argument="tokens")
        Traceback (most recent call last):
        smalti.errors.SmaltiError: latents must be int64
    """
    try:
        yield
    except SmaltiError as error:
        name = names.get(error.argument or "")
        if name is None:
            raise
        raise SmaltiError(error.named(name), argument=name) from error
