"""Files of learned words: one small safetensors file a word, read strictly and written whole.

A file holds the tensor `vectors`, (n, D). Its metadata hold the word's name and a fingerprint of the base model.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smalti.common.checks import quoted
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.model.learned import LearnedWord, add_words
from smalti.model.words import caption_words
from smalti.storage.adapters import base_fingerprint, check_base
from smalti.storage.small_files import read_small, write_small

WORD = "smalti_word"
"""Key of a word's name in the metadata of its file."""

_BASE, _VECTORS = "smalti_base", "vectors"


@dataclass(frozen=True, eq=False)
class StoredWord:
    """A learned word as its file holds it.

    Attributes:
        path: the file.
        word: the word.
        base: fingerprint of the base that it was trained on, or None where the file has none.
    """

    path: Path
    word: LearnedWord
    base: str | None


def save_word(word: LearnedWord, path: str | Path, *, base: str | Path | None = None) -> None:
    """Write a learned word.

    Args:
        word: the word.
        path: the file, which ends in .safetensors.
        base: folder of the model that it was trained on; None lets any model of its width read it.

    Raises:
        SmaltiError: the file cannot be written.
    """
    fingerprint = None if base is None else base_fingerprint(base)
    metadata = {WORD: word.name} | ({_BASE: fingerprint} if fingerprint else {})
    write_small(path, {_VECTORS: word.vectors}, metadata)


def read_word(path: str | Path) -> StoredWord:
    """Read a learned word.

    Raises:
        SmaltiError: the file is missing, damaged or of another kind.
    """
    if not isinstance(path, str | Path) or not os.path.isfile(path):
        raise SmaltiError(f"word must be a file that exists, not {quoted(str(path))}", argument="word")
    path = Path(path)
    tensors, metadata = read_small(path)
    if set(tensors) != {_VECTORS} or WORD not in metadata:
        raise SmaltiError(f"word must be a file of smalti train-word, not {path}", argument="word")
    try:
        word = LearnedWord(metadata[WORD], tensors[_VECTORS])
    except SmaltiError as error:
        raise SmaltiError(f"{path}: {error}", argument="word") from error
    return StoredWord(path, word, metadata.get(_BASE))


def read_words(word: str | Path | Sequence[str | Path] | None) -> list[StoredWord]:
    """Read one file of a learned word or several, or none for None.

    Raises:
        SmaltiError: as for `read_word`.
    """
    if word is None:
        return []
    files = [word] if isinstance(word, str | Path) else word
    if not isinstance(files, list | tuple):
        raise SmaltiError(f"word must be a file or a list of files, not {quoted(word)}", argument="word")
    return [read_word(one) for one in files]


def with_stored_words(components: Components, words: Sequence[StoredWord]) -> Components:
    """Return components whose prompts can use words that were read from files. The denoiser is changed in place.

    Raises:
        SmaltiError: a word is for another base, or its name is taken.
    """
    if words and components.folder:
        check_base({one.path: one.base for one in words}, components.folder, "word", "word")
    return with_words(components, [stored.word for stored in words])


def with_words(components: Components, words: Sequence[LearnedWord]) -> Components:
    """Return components whose prompts can use learned words. The denoiser is changed in place.

    Raises:
        SmaltiError: a word is for a model of another width, or its name is taken.

    Example:
        >>> import smalti, torch
        >>> parts = with_words(smalti.load("scenes").components, [LearnedWord("<thing>", torch.zeros(1, 256))])
        >>> parts.name, parts.unknown_words(["a red <thing>"])
        ('scenes + <thing>', [])
    """
    if not words:
        return components
    known = components.words
    return dataclasses.replace(
        components,
        text_tokenizer=add_words(components.denoiser, components.text_tokenizer, words),
        name=" + ".join([components.name, *(word.name for word in words)]),
        words=known.union(caption_words(word.name for word in words)) if known else known,
    )
