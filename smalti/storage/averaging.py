"""A model between two others, by averaging their weights.

After fine-tuning, a model between the old one and the new one can keep the abilities of both
(WiSE-FT, arXiv 2109.01903). One must be fine-tuned from the other, or both from a third. Averages of independently
trained models are meaningless.
"""

from __future__ import annotations

from pathlib import Path

import torch

from smalti.common.checks import check_real, quoted
from smalti.common.files import read_text
from smalti.errors import SmaltiError
from smalti.storage.entries import PREFIX, check_floats
from smalti.storage.folder import (
    existing,
    load_codebook,
    load_config,
    load_denoiser,
    load_image_tokenizer,
    load_text_tokenizer,
    load_words,
)
from smalti.storage.headers import read_denoisers
from smalti.storage.mapping import read_tensor
from smalti.storage.saving import save_model
from smalti.storage.space import check_space
from smalti.storage.weights import check_weights

# Fields about training and sampling, on which the meaning of weights does not depend.
_FREE = {
    "flip_ratio",
    "gen_edit_loss_weight",
    "group_ce_weight",
    "mm_vqvae",
    "presets",
    "prompt_drop_rate",
    "sampling",
}


def average_models(
    first: str | Path,
    second: str | Path,
    folder: str | Path,
    *,
    share: float = 0.5,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a model whose denoiser's weights are (1 - share) · first + share · second.

    Configuration, tokenizers and the dtype of each weight are the first's. The new model knows the words of both
    models' training captions. Sums are float32, tensor by tensor, so that memory holds little more than one model.

    Args:
        first: model folder.
        second: model folder of the same architecture, with the same image codes and the same text tokenizer.
        folder: folder of the new model. It is created if needed, and must not be one of the two.
        share: weight of the second model, from 0 to 1.
        max_shard_bytes: largest size of a file; larger ones are split.

    Raises:
        SmaltiError: the models do not fit each other, one cannot be read, or the folder cannot be written.

    Example:
        >>> average_models("runs/old/model", "runs/new/model", "between", share=0.7)  # doctest: +SKIP
    """
    check_real("share", share, 0, 1)
    first, second, folder = Path(first), Path(second), Path(folder)
    for model in (first, second):
        check_floats(read_denoisers(existing(model)).values(), model, "averaging")
    text = _check_fit(first, second)
    _check_target(folder, first, second)
    words = load_words(first) | load_words(second)
    denoiser = load_denoiser(first, dtype=None)
    entries = read_denoisers(second)
    check_weights(denoiser, entries, PREFIX, second)
    image_tokenizer = load_image_tokenizer(first, dtype=None)
    parts = (denoiser, image_tokenizer)
    check_space(folder, sum(tensor.nbytes for part in parts for tensor in part.state_dict().values()))
    with torch.no_grad():
        for name, weight in denoiser.state_dict().items():
            other = read_tensor(entries[PREFIX + name], "cpu", torch.float32)
            weight.copy_(weight.float().lerp(other, share))
            _check_finite(f"{name} of {first} and {second}", weight)
    for name, weight in image_tokenizer.state_dict().items():
        _check_finite(f"{name} of the image tokenizer of {first}", weight)
    save_model(denoiser, image_tokenizer, text, folder, words=words, max_shard_bytes=max_shard_bytes)


def _check_target(folder: Path, *models: Path) -> None:
    """Raise SmaltiError if a folder that is written is one of those that are read."""
    names = {Path(load_config(model).mm_vqvae) for model in models}
    read = {path.resolve() for model in models for path in (model, *(model / name for name in names))}
    for path in (folder, folder / load_config(models[0]).mm_vqvae):
        if path.resolve() in read:
            raise SmaltiError(
                f"folder must not be one of the two models, whose files would be lost, not {quoted(str(folder))}",
                argument="folder",
            )


def _check_finite(name: str, weight: torch.Tensor) -> None:
    """Raise SmaltiError for a weight with NaN or infinity."""
    if not bool(weight.isfinite().all()):
        raise SmaltiError(f"weights must be finite, but {name} are not")


def _check_fit(first: Path, second: Path) -> str:
    """Return the tokenizer.json of two models, or raise SmaltiError unless they fit each other."""
    pair = f"{first} and {second}"
    ours, theirs = (load_config(model).to_dict() for model in (first, second))
    for name in sorted((ours.keys() | theirs.keys()) - _FREE):
        if ours.get(name) != theirs.get(name):
            values = f"{ours.get(name)} and {theirs.get(name)}"
            raise SmaltiError(f"{pair} must be of one architecture, but {name} is {values}")
    if not torch.equal(load_codebook(first), load_codebook(second)):
        raise SmaltiError(f"{pair} must have the same image codes")
    load_text_tokenizer(first)
    text, other_text = (read_text(model / "tokenizer.json") for model in (first, second))
    if text != other_text:
        raise SmaltiError(f"{pair} must have the same tokenizer.json")
    return text
