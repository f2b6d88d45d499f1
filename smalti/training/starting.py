"""The weights that a denoiser's training starts from: random ones, or those of another model; one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from smalti.common.randomness import stream
from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.text import TextTokenizer
from smalti.storage.entries import PREFIX, Entry, check_floats
from smalti.storage.folder import existing, load_image_tokenizer
from smalti.storage.headers import read_denoisers
from smalti.storage.mapping import FLOATS, map_tensor
from smalti.training.config import DenoiserRunConfig
from smalti.training.encoding import fingerprint
from smalti.training.matching import CODE_TABLES, TEXT_TABLE, matched_tables
from smalti.training.sizing import check_shapes
from smalti.training.state import latest_checkpoint
from smalti.vq.tokenizer import ImageTokenizer


def starting_weights(
    model: Denoiser,
    folder: str | None,
    seed: int,
    codebook: torch.Tensor,
    tables: Mapping[str, torch.Tensor],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the starting weight of every parameter by name, on the CPU.

    Args:
        model: the model, on any device.
        folder: model folder to continue from, which `check_start` accepted, or None for random weights.
        seed: seed of the random weights.
        codebook: (V, C) float, the image tokenizer's codes.
        tables: weights that replace those of the folder, by name.
    """
    if folder is None:
        yield from _random(model, codebook, stream(seed, "weights"))
        return
    entries = read_denoisers(existing(folder))
    for name, parameter in model.named_parameters():
        if name in tables:
            yield name, tables[name]
            continue
        entry = entries.get(PREFIX + name)
        # A convolution over the prompt that the other model lacks starts at zero, where it has no effect.
        yield name, torch.zeros(parameter.shape) if entry is None else _weight(entry)


def _weight(entry: Entry) -> torch.Tensor:
    return map_tensor(entry).view(entry.shape)


def own_tables(
    model: Denoiser,
    config: DenoiserRunConfig,
    image_tokenizer: ImageTokenizer,
    text: TextTokenizer,
    images: TokenShards,
) -> dict[str, torch.Tensor]:
    """Return the tables that `start_from` gets for this training's own tokenizers; none if it keeps its own.

    A training that is resumed gets zeros, because its checkpoint has all weights.
    """
    if not config.match_tokenizers or config.start_from is None:
        return {}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    if latest_checkpoint(Path(config.output)):
        return {name: torch.zeros(shapes[name]) for name in (TEXT_TABLE, *CODE_TABLES)}
    folder = existing(config.start_from)
    entries = read_denoisers(folder)
    return matched_tables(
        {name: _weight(entries[PREFIX + name]).float() for name in (TEXT_TABLE, *CODE_TABLES)},
        (image_tokenizer, load_image_tokenizer(folder)),
        (text, TextTokenizer.from_file(folder / "tokenizer.json")),
        shapes[TEXT_TABLE][0],
        images,
        stream(config.seed, "matched words"),
    )


def check_start(model: Denoiser, config: DenoiserRunConfig, image_tokenizer: ImageTokenizer) -> None:
    """Raise SmaltiError unless `start_from` has the shape of a model and, if it keeps its tables, the same codes."""
    folder = config.start_from
    assert folder is not None
    if not config.match_tokenizers:
        if fingerprint(load_image_tokenizer(folder)) != fingerprint(image_tokenizer):
            raise SmaltiError(
                f"start_from: {folder} must have the image tokenizer of tokenizer: {config.tokenizer}; "
                f"match_tokenizers=true accepts another one"
            )
    entries = read_denoisers(existing(folder))
    check_floats(entries.values(), Path(folder), "training of the whole model")
    needed = {PREFIX + name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    optional = {name for name in needed if name.startswith(f"{PREFIX}prompt_convolution.")}
    lacking = {name: needed[name] for name in optional if name not in entries}
    found = {name: entry.shape if entry.dtype in FLOATS else () for name, entry in entries.items()}
    if config.match_tokenizers:
        for name in (TEXT_TABLE, *CODE_TABLES):
            # Their rows may differ, their widths may not.
            found[PREFIX + name] = (needed[PREFIX + name][0], *found.get(PREFIX + name, ())[1:])
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
        if name in CODE_TABLES:  # they start as projections of the codes
            tables[name] = values
        else:
            yield name, values
    codes = codebook / codebook.norm(dim=1, keepdim=True).clamp_min(1e-8)
    for name in CODE_TABLES:
        projection = torch.randn(codes.shape[1], tables[name].shape[1], generator=generator)
        tables[name][: len(codes)] = 0.02 * codes @ projection
        yield name, tables.pop(name)
