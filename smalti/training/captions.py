"""The captions of a training as text tokens: the text tokenizer, and captions that the model cannot take whole."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from smalti.common.files import make_folder
from smalti.data.folder import ImageFolder
from smalti.errors import SmaltiError
from smalti.model.text import TextTokenizer, train_text_tokenizer
from smalti.training.config import DenoiserRunConfig
from smalti.training.reading import name_key


def find_text_tokenizer(config: DenoiserRunConfig, captions: list[str]) -> Path:
    """Return the file of the text tokenizer: that of `start_from`, or one that is trained on the captions.

    The file's name holds a hash of the captions, so that other captions make another tokenizer.
    """
    if config.start_from:
        return Path(config.start_from) / "tokenizer.json"
    captions = captions[: config.text.captions]
    digest = hashlib.sha256("\n".join(captions).encode()).hexdigest()[:16]
    path = Path(config.cache.path) / f"tokenizer-{config.text.vocab_size}-{digest}.json"
    if not os.path.exists(path):
        with name_key("cache.path"):
            make_folder(path.parent)
        train_text_tokenizer(captions, config.text.vocab_size, path)
    return path


def check_captions(source: ImageFolder, text: TextTokenizer, most: int) -> None:
    """Raise SmaltiError with the name of the first image whose caption has more than `most` text tokens."""

    def check(caption: str) -> None:
        count = len(text.encode(caption))
        if count > most:
            raise SmaltiError(
                f"it must be at most {most} text tokens long, not {count}; text.cut_captions=true cuts it"
            )

    source.check_captions(check)


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
