"""The one exception that Smalti raises for input it cannot use."""

from __future__ import annotations


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
        super().__init__(message)
        self.argument = argument

    def named(self, name: str) -> str:
        """Return the message with another name for the argument, such as that of a command-line option."""
        message = str(self)
        if self.argument is None or not message.startswith(self.argument):
            return message
        return name + message.removeprefix(self.argument)
