"""The words that a model's training captions use, kept as `words.txt` beside the model."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

WORDS_FILE = "words.txt"
"""File of a model folder that holds the words of its training captions, one per line."""

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


def caption_words(captions: Iterable[str]) -> list[str]:
    """Return the distinct words of captions in lower case, sorted. A word is of letters and apostrophes.

    Example:
        >>> caption_words(["A red circle", "two red circles, one's small"])
        ['a', 'circle', 'circles', "one's", 'red', 'small', 'two']
    """
    return sorted({word for caption in captions for word in _split(caption)})


def unknown_words(prompt: str, words: Collection[str]) -> list[str]:
    """Return the words of a prompt that are not among `words`, each once, in the prompt's order.

    Example:
        >>> unknown_words("a red dog beside a Dog", caption_words(["a red circle"]))
        ['dog', 'beside']
    """
    known = frozenset(words)
    return list(dict.fromkeys(word for word in _split(prompt) if word not in known))


def _split(text: str) -> list[str]:
    return _WORD.findall(text.replace("’", "'").lower())
