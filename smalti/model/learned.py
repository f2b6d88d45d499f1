"""Words that a model learns from a few images: rows of the text embedding, while every weight stays frozen.

This is textual inversion for masked models. A word's name, such as "<thing>", stands for its vectors in prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.text import TextTokenizer

MOST_VECTORS = 16
"""Largest number of vectors of a word."""

_NAME = re.compile(r"<[^\W_][\w-]{0,62}>")


@dataclass(frozen=True, eq=False)
class LearnedWord:
    """A word and its vectors in the text embedding.

    Attributes:
        name: how prompts write it: letters, digits, "_" and "-" in angle brackets.
        vectors: (n, D) float32, which take the places of n text ids.

    Raises:
        SmaltiError: the name or the vectors are of another kind, or a number is not finite.
    """

    name: str
    vectors: torch.Tensor

    def __post_init__(self) -> None:
        check_name(self.name)
        vectors = self.vectors
        if not isinstance(vectors, torch.Tensor) or not vectors.is_floating_point():
            kind = vectors.dtype if isinstance(vectors, torch.Tensor) else quoted(vectors)
            raise SmaltiError(f"vectors must be a tensor of floats, not {kind}", argument="vectors")
        shape = tuple(vectors.shape)
        if len(shape) != 2 or not 1 <= shape[0] <= MOST_VECTORS:
            raise SmaltiError(
                f"vectors must be (n, D) with n from 1 to {MOST_VECTORS}, not {shape}", argument="vectors"
            )
        if not bool(vectors.isfinite().all()):
            raise SmaltiError("vectors must be finite, not nan or inf", argument="vectors")


def check_name(name: Any) -> str:
    """Return the name of a word.

    Raises:
        SmaltiError: it is not in angle brackets or has other characters than letters, digits, "_" and "-".

    Example:
        >>> check_name("<my-dog>")
        '<my-dog>'
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SmaltiError(
            f"name must be of letters, digits, - and _ in angle brackets, such as <thing>, not {quoted(name)}",
            argument="name",
        )
    return name


class WordEmbedding(nn.Module):
    """A text embedding with the rows of learned words after those of its vocabulary.

    Args:
        base: the embedding, which may be of any kind; it is called with ids of its own alone.
        first: id of the first row, the size of the base's vocabulary.
        rows: (n, D) float32, the rows; they require gradients if they are to be trained.
    """

    def __init__(self, base: nn.Module, first: int, rows: torch.Tensor) -> None:
        super().__init__()
        self.base = base
        self.first = first
        self.rows = nn.Parameter(rows, requires_grad=rows.requires_grad)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed ids: (…) int64 → (…, D), in the base's dtype."""
        learned = ids >= self.first
        known = self.base(ids.masked_fill(learned, 0))
        if not bool(learned.any()):
            return known
        rows = self.rows[(ids - self.first).clamp_min(0)]
        return torch.where(learned[..., None], rows.to(known.device, known.dtype), known)


def add_words(
    denoiser: Denoiser, tokenizer: TextTokenizer, words: Sequence[LearnedWord], *, trained: bool = False
) -> TextTokenizer:
    """Give a denoiser the rows of words, and return a text tokenizer that knows their names.

    Args:
        denoiser: the denoiser, changed in place: prompts without the words are read as before.
        tokenizer: its text tokenizer, which stays as it is.
        words: at least one word.
        trained: whether the new rows require gradients.

    Raises:
        SmaltiError: a word is for a model of another width, or its name is taken.
    """
    config = denoiser.config
    for word in words:
        if word.vectors.shape[1] != config.hidden_size:
            raise SmaltiError(
                f"word {word.name} is for another model: its vectors have {word.vectors.shape[1]} numbers, "
                f"not {config.hidden_size}",
                argument="word",
            )
    before = denoiser.embed_tokens
    old = before.rows.detach() if isinstance(before, WordEmbedding) else None
    base = before.base if isinstance(before, WordEmbedding) else before
    count = 0 if old is None else len(old)
    names: dict[str, list[int]] = {}
    for word in words:
        if word.name in names or word.name in tokenizer.words or word.name in tokenizer.special:
            raise SmaltiError(
                f"word must have a name that is free: {word.name} is given twice", argument="word"
            )
        start = config.vocab_size + count
        names[word.name] = list(range(start, start + len(word.vectors)))
        count += len(word.vectors)
    parts = [word.vectors.float().to(denoiser.device) for word in words]
    rows = torch.cat([*([] if old is None else [old]), *parts]).requires_grad_(trained)
    # The attribute is declared as the embedding that it replaces.
    denoiser.add_module("embed_tokens", WordEmbedding(base, config.vocab_size, rows))
    return tokenizer.with_words(names)
