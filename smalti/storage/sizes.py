"""Sizes of a configuration against the headers of the weights, before a model of these sizes is built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from smalti.errors import SmaltiError
from smalti.model.config import EXTRA_CODES, DenoiserConfig
from smalti.storage.entries import Entry
from smalti.vq.config import VQConfig


def check_denoiser_sizes(config: DenoiserConfig, entries: Mapping[str, Entry], prefix: str) -> None:
    """Raise SmaltiError if the headers tell another width, vocabulary, codebook or depth than the configuration.

    Headers without the tensor that tells a size pass: they are found incomplete later.
    """
    _check_rows(entries, f"{prefix}embed_tokens.weight", "vocab_size", config.vocab_size)
    _check_rows(
        entries, f"{prefix}gen_embedding.weight", "codebook_size", config.codebook_size, extra=EXTRA_CODES
    )
    _check_columns(entries, f"{prefix}embed_tokens.weight", "hidden_size", config.hidden_size)
    _check_count(entries, f"{prefix}layers.", "num_hidden_layers", config.num_hidden_layers)
    _check_count(entries, f"{prefix}text_layers.", "num_text_layers", config.num_text_layers)


def check_image_tokenizer_sizes(config: VQConfig, entries: Mapping[str, Entry], prefix: str) -> None:
    """Raise SmaltiError if the headers tell another codebook, dimension or depth than the configuration."""
    codebook = f"{prefix}quantize.embedding.weight"
    _check_rows(entries, codebook, "codebook_size", config.codebook_size)
    _check_columns(entries, codebook, "embed_dim", config.embed_dim)
    _check_count(
        entries, f"{prefix}decoder.up.", "ch_mult", len(config.ch_mult), what="the number of levels in "
    )
    _check_count(entries, f"{prefix}decoder.up.0.block.", "num_res_blocks", config.num_res_blocks, extra=1)


def _check_rows(entries: Mapping[str, Entry], tensor: str, field: str, value: int, *, extra: int = 0) -> None:
    entry = entries.get(tensor)
    if entry and len(entry.shape) == 2 and entry.shape[0] != value + extra:
        _refuse(field, entry.shape[0] - extra, value, f"{tensor} in {entry.path.name}")


def _check_columns(entries: Mapping[str, Entry], tensor: str, field: str, value: int) -> None:
    entry = entries.get(tensor)
    if entry and len(entry.shape) == 2 and entry.shape[1] != value:
        _refuse(field, entry.shape[1], value, f"{tensor} in {entry.path.name}")


def _check_count(
    entries: Mapping[str, Entry], start: str, field: str, value: int, *, extra: int = 0, what: str = ""
) -> None:
    """Compare a number of modules with the numbers in the tensors' names."""
    count = len(set(_numbers(entries, start)))
    if count and count != value + extra:
        _refuse(what + field, count - extra, value, f"the tensors {start}*")


def _numbers(names: Iterable[str], start: str) -> Iterable[str]:
    number = re.compile(r"(\d+)\.")
    return (
        found[1] for name in names if name.startswith(start) and (found := number.match(name, len(start)))
    )


def _refuse(field: str, found: int, value: int, source: str) -> None:
    raise SmaltiError(f"{field} must be {found} by {source}, not {value}")
