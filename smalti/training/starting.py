"""The weights that a denoiser's training starts from: random ones, or those of another model; one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from smalti.common.randomness import stream
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.storage.entries import PREFIX, check_floats
from smalti.storage.folder import existing, load_image_tokenizer
from smalti.storage.headers import read_denoisers
from smalti.storage.mapping import FLOATS, map_tensor
from smalti.training.encoding import fingerprint
from smalti.training.sizing import check_shapes
from smalti.vq.tokenizer import ImageTokenizer

# The tables of image tokens, which start as projections of the codes.
_TABLES = ("gen_embedding.weight", "gen_predictor.weight")


def starting_weights(
    model: Denoiser, folder: str | None, seed: int, codebook: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the starting weight of every parameter by name, on the CPU.

    Args:
        model: the model, on any device.
        folder: model folder to continue from, which `check_start` accepted, or None for random weights.
        seed: seed of the random weights.
        codebook: (V, C) float, the image tokenizer's codes.
    """
    if folder is None:
        yield from _random(model, codebook, stream(seed, "weights"))
        return
    entries = read_denoisers(existing(folder))
    for name, parameter in model.named_parameters():
        entry = entries.get(PREFIX + name)
        # A convolution over the prompt that the other model lacks starts at zero, where it has no effect.
        yield name, torch.zeros(parameter.shape) if entry is None else map_tensor(entry).view(entry.shape)


def check_start(model: Denoiser, folder: str, tokenizer: str, image_tokenizer: ImageTokenizer) -> None:
    """Raise SmaltiError unless a model folder has the shape of a model and the same codes."""
    if fingerprint(load_image_tokenizer(folder)) != fingerprint(image_tokenizer):
        raise SmaltiError(f"start_from: {folder} must have the image tokenizer of tokenizer: {tokenizer}")
    entries = read_denoisers(existing(folder))
    check_floats(entries.values(), Path(folder), "training of the whole model")
    needed = {PREFIX + name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    optional = {name for name in needed if name.startswith(f"{PREFIX}prompt_convolution.")}
    lacking = {name: needed[name] for name in optional if name not in entries}
    found = {name: entry.shape if entry.dtype in FLOATS else () for name, entry in entries.items()}
    check_shapes(needed, found | lacking, folder)


def _random(
    model: Denoiser, codebook: torch.Tensor, generator: torch.Generator
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield random weights; the tables of image tokens are random projections of the codes.

    Similar codes then start with similar vectors. Otherwise a model would have to learn the similarity code by code.
    The variance is the usual one.
    """
    tables = {}
    for name, values in model.initial_weights(generator):
        if name in _TABLES:
            tables[name] = values
        else:
            yield name, values
    codes = codebook / codebook.norm(dim=1, keepdim=True).clamp_min(1e-8)
    for name in _TABLES:
        projection = torch.randn(codes.shape[1], tables[name].shape[1], generator=generator)
        tables[name][: len(codes)] = 0.02 * codes @ projection
        yield name, tables.pop(name)
