"""Places of a phrase in a prompt: its characters, and the ids that hold them."""

from __future__ import annotations

import re

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.model.prompt import PromptTemplate
from smalti.model.text import TextTokenizer


def find_phrase(prompt: str, phrase: str) -> tuple[int, int]:
    """Return the first place of a phrase in a prompt, (start, end) in characters.

    Case and the number of blanks between words do not matter. The phrase must begin and end at words.

    Raises:
        SmaltiError: the phrase is blank, or is not in the prompt.

    Example:
        >>> find_phrase("A red circle and a blue square", "a  blue square")
        (17, 30)
    """
    if not isinstance(phrase, str) or not phrase.strip():
        raise SmaltiError(f"phrase must be text that is not blank, not {quoted(phrase)}", argument="phrase")
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    found = re.search(rf"(?<!\w){words}(?!\w)", prompt, re.IGNORECASE)
    if found is None:
        raise SmaltiError(
            f"phrase must be in the prompt {quoted(prompt)}, not {quoted(phrase)}", argument="phrase"
        )
    return found.start(), found.end()


def find_words(prompt: str) -> list[tuple[int, int]]:
    """Return the places of all words of a prompt, (start, end) in characters; punctuation belongs to no word.

    Example:
        >>> find_words("A red-ish circle, one's")
        [(0, 1), (2, 9), (10, 16), (18, 23)]
    """
    return [found.span() for found in re.finditer(r"\w+(?:['’-]\w+)*", prompt)]


def prompt_ids(
    prompt: str, template: PromptTemplate, tokenizer: TextTokenizer, *, height: int, width: int
) -> list[tuple[int, int, int]]:
    """Return the ids of a prompt in its template that hold a character of the prompt.

    Args:
        prompt: the text.
        template: the model's template.
        tokenizer: the model's text tokenizer.
        height: height of the image in pixels, for the micro-condition.
        width: width of the image in pixels.

    Returns:
        (index, start, end) of each: its index among all ids, and the characters of the prompt that it holds.
    """
    micro = template.micro_condition.replace("{height}", str(height)).replace("{width}", str(width))
    index = 0
    for text, special in tokenizer.split(template.template):
        if special is not None:
            index += 1
            continue
        before, field, after = text.partition("{prompt}")
        before, after = (part.split("{slots}")[0].replace("{micro}", micro) for part in (before, after))
        if not field:
            index += len(tokenizer.encode(before))
            continue
        spans = tokenizer.spans(before + prompt + after)
        inside = [
            (index + place, start - len(before), end - len(before))
            for place, (start, end) in enumerate(spans)
        ]
        return [
            (place, max(start, 0), min(end, len(prompt)))
            for place, start, end in inside
            if start < len(prompt) and end > 0
        ]
    return []  # a template without a prompt is refused where it is read


def ids_inside(ids: list[tuple[int, int, int]], prompt: str, place: tuple[int, int]) -> list[int]:
    """Return which of the ids that `prompt_ids` lists hold a character of a place that is not blank, by number."""
    start, end = place
    return [
        number
        for number, (_, first, last) in enumerate(ids)
        if first < end and last > start and prompt[max(first, start) : min(last, end)].strip()
    ]
