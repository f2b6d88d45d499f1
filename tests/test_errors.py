"""Messages: one line, below 300 characters, and what is wrong stays readable beside a value of thousands of letters."""

from __future__ import annotations

import pytest

from smalti.errors import LONGEST_MESSAGE, SmaltiError, one_line


@pytest.mark.parametrize(
    "text",
    [
        "x" * 5000 + " is not a folder",
        "data: " + "x/" * 3000 + "end.png is not a folder",
        "first\nsecond " + "a" * 400 + " and " + "b" * 400 + " is not a folder",
    ],
)
def test_long_values_leave_room_for_the_reason(text: str) -> None:
    message = str(SmaltiError(text))
    assert len(message) <= LONGEST_MESSAGE and "\n" not in message and message.endswith(" is not a folder")


def test_many_words_lose_their_middle() -> None:
    """A list of what is allowed leaves room for the value."""
    allowed = [f"name-{number}" for number in range(100)]
    message = one_line(f"class must be one of {allowed}, not 'dog'")
    assert len(message) == LONGEST_MESSAGE and "..." in message
    assert message.startswith("class must be one of ['name-0', ") and message.endswith("], not 'dog'")
    assert one_line("fits\n as it is", 40) == "fits as it is"
