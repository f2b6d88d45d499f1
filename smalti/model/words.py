"""The words of a model's training captions, and those of a prompt that are not among them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def caption_words(captions: Iterable[str]) -> list[str]:
    """Return the distinct words of captions, lower-case and sorted.

    Example:
        >>> caption_words(["A red circle", "a blue circle"])
        ['a', 'blue', 'circle', 'red']
    """
    return sorted({word for caption in captions for word in _WORD.findall(caption.lower())})


def unknown_words(prompt: str, words: Collection[str]) -> list[str]:
    """Return the words of a prompt that are not among `words`, each once, in the prompt's order.

    Example:
        >>> unknown_words("a red dragon", {"a", "red", "circle"})
        ['dragon']
    """
    return list(dict.fromkeys(word for word in _WORD.findall(prompt.lower()) if word not in words))
