"""Text tokenizers: from plain text to ids, from `tokenizer.json` or trained on captions."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from smalti.common.checks import quoted
from smalti.common.files import atomic_path, read_text
from smalti.errors import SmaltiError

# The form of a special token, to find those in a template that the tokenizer lacks.
_SPECIAL = re.compile(r"<\|\w+\|>|<SPECIAL_\d+>")


class TextTokenizer:
    """A `tokenizer.json` in two parts: its special tokens by name, and an encoder that knows none of them."""

    def __init__(self, serialized: str) -> None:
        """Build from the text of a `tokenizer.json`.

        Raises:
            SmaltiError: it is not one.
        """
        try:
            values = json.loads(serialized)
        except (ValueError, RecursionError) as error:
            raise SmaltiError(f"not a tokenizer.json: {error}") from error
        self.special, self.vocab_size = _special_tokens(values)
        self.longest = max(map(len, values["model"]["vocab"]), default=1)
        self.words: dict[str, tuple[int, ...]] = {}
        with _library_errors("not a tokenizer.json"):
            # Without added tokens there is nothing to parse: "<|im_end|>" in a user's text is just text.
            plain = json.dumps({**values, "added_tokens": [], "post_processor": None})
            self._plain = Tokenizer.from_str(plain)
            self._plain.no_truncation()
            self._plain.no_padding()

    @classmethod
    def from_file(cls, path: str | Path) -> TextTokenizer:
        """Read a `tokenizer.json`.

        Raises:
            SmaltiError: the file is missing or is not a tokenizer.
        """
        serialized = read_text(path)
        try:
            return cls(serialized)
        except SmaltiError as error:
            raise SmaltiError(f"{path} is {error}") from error

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text; special tokens are never parsed.

        Raises:
            SmaltiError: the tokenizer has no ids for the text.
        """
        return [number for number, _ in self._encoded(text)]

    def vocabulary(self) -> dict[str, int]:
        """Return the ids of all texts, and those of the special tokens by their names."""
        return {**self._plain.get_vocab(), **self.special}

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the characters of plain text that each of its ids holds: (start, end)."""
        return [place for _, place in self._encoded(text)]

    def with_words(self, words: Mapping[str, Sequence[int]]) -> TextTokenizer:
        """Return a tokenizer that also knows learned words: the ids of each by its name in plain text."""
        other = copy.copy(self)
        other.words = {**self.words, **{name: tuple(ids) for name, ids in words.items()}}
        # A blank in front of a word may belong to it.
        other.longest = max([self.longest, *(len(name) + 1 for name in words)])
        return other

    def _encoded(self, text: str) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield the ids of plain text, each with the characters that it holds."""
        names = sorted(self.words, key=len, reverse=True)
        blank = " ?" if names and not self._keeps_blanks() else ""
        pattern = re.compile(f"{blank}({'|'.join(map(re.escape, names))})") if names else None
        start = 0
        for match in [*(pattern.finditer(text) if pattern else ()), None]:
            plain = text[start : match.start() if match else len(text)]
            with _library_errors(f"tokenizer.json cannot encode {quoted(text)}"):
                found = self._plain.encode(plain, add_special_tokens=False)
            for number, (first, last) in zip(found.ids, found.offsets, strict=True):
                yield number, (start + first, start + last)
            if match:
                yield from ((number, match.span(1)) for number in self.words[match[1]])
                start = match.end()

    def _keeps_blanks(self) -> bool:
        """Return whether the blank in front of a word has an id of its own, as at the end of a text."""
        alone, before = (self._plain.encode(text, add_special_tokens=False).ids for text in ("a ", "a a"))
        return len(before) > len(alone) and before[: len(alone)] == alone

    def split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """Yield the parts of a template: (text, None) or (special token, its id).

        Raises:
            SmaltiError: the template names a special token that this tokenizer lacks.
        """
        names = sorted(self.special, key=len, reverse=True)
        pattern = re.compile("|".join(re.escape(name) for name in names) or r"(?!)")
        start = 0
        for match in [*pattern.finditer(text), None]:
            plain = text[start : match.start() if match else len(text)]
            unknown = _SPECIAL.search(plain)
            if unknown:
                raise SmaltiError(f"the prompt template names {unknown[0]}, which tokenizer.json lacks")
            if plain:
                yield plain, None
            if match:
                yield match[0], self.special[match[0]]
                start = match.end()


def _special_tokens(values: Any) -> tuple[dict[str, int], int]:
    """Return the special tokens of a tokenizer.json by name, and one more than its largest id."""
    added = values.get("added_tokens") if isinstance(values, dict) else None
    if not isinstance(added, list) or not all(isinstance(entry, dict) for entry in added):
        raise SmaltiError("not a tokenizer.json: added_tokens must be a list of objects")
    tokens = [(entry.get("content"), entry.get("id")) for entry in added]
    model = values.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise SmaltiError("not a tokenizer.json: model.vocab must be an object with at least one text")
    ids = [*(number for _, number in tokens), *vocabulary.values()]
    if not all(isinstance(name, str) for name, _ in tokens) or set(map(type, ids)) != {int} or min(ids) < 0:
        raise SmaltiError("not a tokenizer.json: tokens must be texts with whole numbers of at least 0")
    return dict(tokens), 1 + max(ids)


@contextmanager
def _library_errors(message: str) -> Iterator[None]:
    """Raise SmaltiError with the message for everything that the tokenizers' library raises.

    It raises bare Exception for every kind of bad file, and for some a panic, which is not even an Exception.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise SmaltiError(f"{message}: {quoted(str(error))}") from error
        raise


def train_text_tokenizer(captions: Iterable[str], vocab_size: int, path: str | Path) -> TextTokenizer:
    """Train a byte-level BPE on captions and write its `tokenizer.json`.

    The first 101 ids are the special tokens with the reference model's ids: 10 <|im_start|>, 11 <|im_end|>, the rest
    <SPECIAL_n>. The same captions give the same file.

    Raises:
        SmaltiError: vocab_size leaves no room for the special tokens and 256 bytes, or `path` cannot be
            written.
    """
    names = {0: "<unk>", 1: "<s>", 2: "</s>", 10: "<|im_start|>", 11: "<|im_end|>"}
    specials = [names.get(index, f"<SPECIAL_{index}>") for index in range(101)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if not isinstance(vocab_size, int) or vocab_size < len(specials) + len(alphabet):
        raise SmaltiError(
            f"vocab_size must be a whole number of at least {len(specials) + len(alphabet)}, "
            f"not {vocab_size!r}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in specials],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    with atomic_path(path) as temporary:
        temporary.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    return TextTokenizer.from_file(path)
