"""The captions of a training as text tokens: the text tokenizer, and captions that the model cannot take whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path

from smalti.common.files import make_folder
from smalti.data.folder import ImageFolder
from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError
from smalti.model.text import TextTokenizer, train_text_tokenizer
from smalti.training.config import DenoiserRunConfig
from smalti.training.reading import name_key


def find_text_tokenizer(config: DenoiserRunConfig, captions: Iterable[str]) -> Path:
    """Return the file of the text tokenizer: that of `start_from`, or one that is trained on the first captions.

    It is trained where there is no `start_from`, and with `match_tokenizers`. The file's name holds a hash of the
    captions, so that other captions make another tokenizer.
    """
    if config.kept_from:
        return config.kept_from / "tokenizer.json"
    first = list(islice(captions, config.text.captions))
    digest = hashlib.sha256("\n".join(first).encode()).hexdigest()[:16]
    path = config.side_folder / f"tokenizer-{config.text.vocab_size}-{digest}.json"
    if not os.path.exists(path):
        with name_key("cache.path" if config.cache else "output"):
            make_folder(path.parent)
        train_text_tokenizer(first, config.text.vocab_size, path)
    return path


def check_captions(source: ImageFolder, text: TextTokenizer, most: int) -> None:
    """Raise SmaltiError with the name of the first image whose caption has more than `most` text tokens."""
    source.check_captions(partial(_check_caption, text=text, most=most))


def check_token_captions(shards: TokenShards, text: TextTokenizer, most: int) -> None:
    """Raise SmaltiError with the name of the first image of token shards that has too long a caption.

    A text token is at least a byte, so that captions of few bytes need not be read.
    """
    for row in shards.rows_with_long_captions(most):
        for caption in shards.captions_of(row):
            try:
                _check_caption(caption, text, most)
            except SmaltiError as error:
                raise SmaltiError(f"the caption of {shards.name(row)}: {error}") from error


def _check_caption(caption: str, text: TextTokenizer, most: int) -> None:
    count = len(text.encode(caption))
    if count > most:
        raise SmaltiError(
            f"it must be at most {most} text tokens long, not {count}; text.cut_captions=true cuts it"
        )


def cut_caption(caption: str, text: TextTokenizer, most: int) -> str:
    """Return the longest beginning of a caption, in whole words if one fits, that has at most `most` text tokens."""
    if len(text.encode(caption)) <= most:
        return caption
    for pieces, joint in ((caption.split(), " "), (list(caption), "")):
        fits, beyond = 0, len(pieces)
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            if len(text.encode(joint.join(pieces[:middle]))) <= most:
                fits = middle
            else:
                beyond = middle
        if fits:
            return joint.join(pieces[:fits])
    return caption
