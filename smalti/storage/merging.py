"""A model with adapters added to its weights: a model folder of its own, in bf16."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from smalti.common.checks import quoted
from smalti.common.files import read_text
from smalti.errors import SmaltiError
from smalti.model.lora import merge_adapters
from smalti.storage.adapters import check_scales, load_adapters, read_adapters
from smalti.storage.entries import check_floats
from smalti.storage.folder import (
    existing,
    load_config,
    load_denoiser,
    load_image_tokenizer,
    load_text_tokenizer,
    load_words,
)
from smalti.storage.headers import read_denoisers
from smalti.storage.saving import save_model


def merge_model(
    model: str | Path,
    adapter: str | Path | Sequence[str | Path],
    folder: str | Path,
    *,
    adapter_scale: float | Sequence[float] | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a model whose denoiser's weights hold adapters. Sums are float32; the weights are written in bf16.

    Configuration and tokenizers are the model's. The new model knows the words of the model's and the adapters'
    training captions. Quantize it when it is loaded: weights that are already quantized cannot take a sum.

    Args:
        model: model folder.
        adapter: adapter folder, or several, whose changes add up.
        folder: folder of the new model. It is created if needed, and must not be the model's or an adapter's.
        adapter_scale: factor of what each adapter changes: one number for all, or one an adapter; None is 1.
        max_shard_bytes: largest size of a file; larger ones are split.

    Raises:
        SmaltiError: an adapter is for another base, a part cannot be read, or the folder cannot be written.

    Example:
        >>> merge_model("nvidia--NL-Diffusion-Image", "runs/cats/model", "merged")  # doctest: +SKIP
    """
    model, folder = Path(model), Path(folder)
    adapters = read_adapters(adapter)
    scales = check_scales(adapter_scale, len(adapters))
    inner = folder / load_config(model).mm_vqvae
    for path in (folder, inner):
        if path.resolve() in {one.resolve() for one in (model, *(stored.folder for stored in adapters))}:
            raise SmaltiError(
                f"folder must not be that of the model or an adapter, not {quoted(str(folder))}",
                argument="folder",
            )
    check_floats(read_denoisers(existing(model)).values(), model, "merging")
    text = read_text(model / "tokenizer.json")
    load_text_tokenizer(model)
    denoiser = load_denoiser(
        model, dtype=None, adapt=lambda loaded: load_adapters(loaded, model, adapters, scales)
    )
    merge_adapters(denoiser)
    for name, weight in denoiser.state_dict().items():
        if not bool(weight.isfinite().all()):
            raise SmaltiError(f"weights must be finite, but {name} of the merged model is not")
    words = load_words(model)
    if words:
        words = words.union(*(load_words(stored.folder) for stored in adapters))
    save_model(
        denoiser,
        load_image_tokenizer(model, dtype=None),
        text,
        folder,
        words=words,
        dtype=torch.bfloat16,
        max_shard_bytes=max_shard_bytes,
    )
