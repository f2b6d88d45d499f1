"""Learned words under the name of diffusers' method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smalti.components import Components
from smalti.model.text import TextTokenizer
from smalti.storage.words import read_words, with_stored_words


class WordMethods:
    """Methods of a pipeline that can become `Components`, its `parts`."""

    text_tokenizer: TextTokenizer
    _name: str
    _words: frozenset[str]

    @property
    def parts(self) -> Components:
        """The model as the rest of Smalti knows it."""
        raise NotImplementedError

    def load_textual_inversion(self, word: str | Path | Sequence[str | Path]) -> None:
        """Add words that `smalti train-word` learned; prompts then use them by name, such as <thing>.

        Args:
            word: file of a word, or several.

        Raises:
            SmaltiError: a file is no word, or one of another base; a name is in use.
        """
        parts = with_stored_words(self.parts, read_words(word))
        self.text_tokenizer, self._name, self._words = parts.text_tokenizer, parts.name, parts.words
