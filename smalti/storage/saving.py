"""Writing of whole model folders, such that a model that was there stays whole until the new one is complete."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from smalti.common.files import write_text_atomic
from smalti.model.denoiser import Denoiser
from smalti.storage.folder import save_denoiser, save_image_tokenizer, save_words
from smalti.storage.savable import check_savable
from smalti.vq.tokenizer import ImageTokenizer


def save_model(
    denoiser: Denoiser,
    image_tokenizer: ImageTokenizer,
    text: str,
    folder: str | Path,
    *,
    words: Collection[str] = (),
    dtype: torch.dtype | None = None,
    image_tokenizer_dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a model folder: denoiser, image tokenizer, text tokenizer and words.

    The denoiser takes long, so it is written first, under temporary names. Only then do the other files get their
    names, and the denoiser and its `config.json` last. A kill before that leaves an existing model as it was, and
    an empty folder without a `config.json`.

    Args:
        denoiser: the denoiser.
        image_tokenizer: the image tokenizer.
        text: content of `tokenizer.json`.
        folder: folder to write; it is created if needed.
        words: words of the training captions; none writes no file.
        dtype: dtype of the denoiser's weights, or None for that of each tensor.
        image_tokenizer_dtype: dtype of the image tokenizer's weights, or None for that of each tensor.
        max_shard_bytes: largest size of a file of the denoiser.

    Raises:
        SmaltiError: the folder cannot be written, or the denoiser was loaded with `quantize` or has adapters.

    Example:
        >>> import tempfile
        >>> import smalti
        >>> from smalti.storage.loading import find_model
        >>> model, folder = find_model("scenes"), f"{tempfile.mkdtemp()}/copy"
        >>> parts = smalti.load("scenes").components
        >>> text = (model / "tokenizer.json").read_text(encoding="utf-8")
        >>> save_model(parts.denoiser, parts.image_tokenizer, text, folder)
        >>> smalti.load(folder).components.denoiser.config == parts.denoiser.config
        True
    """
    check_savable(denoiser)
    folder = Path(folder)

    def rest() -> None:
        save_image_tokenizer(image_tokenizer, folder / denoiser.config.mm_vqvae, dtype=image_tokenizer_dtype)
        write_text_atomic(folder / "tokenizer.json", text)
        if words:
            save_words(words, folder)

    save_denoiser(denoiser, folder, dtype=dtype, max_shard_bytes=max_shard_bytes, before=rest)
