"""The images of a denoiser's training as tokens: shards that are there, or a cache that is made before training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from smalti.common.devices import find_device
from smalti.data.sources import Source
from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError
from smalti.training.config import DenoiserRunConfig
from smalti.training.encoding import (
    check_tokenizer,
    encode_source,
    make_plan,
    print_buckets,
    short_hash,
)
from smalti.training.reading import name_key
from smalti.training.state import latest_checkpoint, read_state
from smalti.vq.tokenizer import ImageTokenizer

logger = logging.getLogger(__name__)

_MOST_COUNTED = 2**28  # tokens whose codes are counted; more say the same
_ROWS_AT_ONCE = 256


class TrainingTokens(NamedTuple):
    """The images of a training.

    Attributes:
        images: the shards of its images.
        regularization: those of the second set, or None.
    """

    images: TokenShards
    regularization: TokenShards | None = None

    @property
    def parts(self) -> list[TokenShards]:
        """The sets that there are."""
        return [self.images] if self.regularization is None else [self.images, self.regularization]


def make_cache(
    config: DenoiserRunConfig,
    source: Source | TokenShards,
    tokenizer: ImageTokenizer,
    second: Source | TokenShards | None = None,
) -> TrainingTokens:
    """Open the configuration's token shards, after encoding the images that a cache lacks.

    Every process calls this at the same time, and encodes its share.

    Args:
        config: configuration of the training.
        source: its images, as `config.data.training()` returns them.
        tokenizer: the image tokenizer that encodes them.
        second: the second set of images, or None to leave it out.

    Raises:
        SmaltiError: the data have no usable images, the folder holds tokens of other images, or the tokens are those of
            another image tokenizer.
    """
    found, other = TrainingTokens(_shards_of(config, source, tokenizer)), second_set(config)
    if other is not None and second is not None:
        with name_key("regularization"):
            found = found._replace(regularization=_shards_of(other, second, tokenizer))
    for shards in found.parts:
        print_buckets(shards)
    return found


def check_same_data(
    config: DenoiserRunConfig,
    source: Source | TokenShards,
    tokenizer: ImageTokenizer,
    second: Source | TokenShards | None,
) -> None:
    """Raise SmaltiError if a run's checkpoint was trained on other images, before they are encoded for nothing.

    Every process calls this at the same time.

    Args:
        config: configuration of the training.
        source: its images.
        tokenizer: the image tokenizer.
        second: the second set of images, or None without one.
    """
    checkpoint = latest_checkpoint(Path(config.output))
    stored = read_state(checkpoint).get("data") if checkpoint else None
    if stored is None:
        return
    found, other = [_metadata_of(config, source, tokenizer)], second_set(config)
    if other is not None and second is not None:
        with name_key("regularization"):
            found.append(_metadata_of(other, second, tokenizer))
    if hash_of(found) != stored:
        raise SmaltiError(
            f"{checkpoint} cannot be resumed: it was trained on other images or captions, or with another image "
            "tokenizer; another training needs another output and cache.path"
        )


def hash_of(metadata: Sequence[Mapping[str, Any]]) -> str:
    """Return a short hash of what the tokens of one set or of two depend on."""
    return short_hash(metadata if len(metadata) > 1 else metadata[0])


def second_set(config: DenoiserRunConfig) -> DenoiserRunConfig | None:
    """Return the configuration of a training on the second set of images alone, or None without one."""
    second = config.regularization
    if second is None:
        return None
    changes: dict[str, object] = {"data": config.data.model_copy(update={"path": second.path})}
    if config.cache:
        path = str(Path(config.cache.path) / "regularization")
        changes["cache"] = config.cache.model_copy(update={"path": path, "samples": None})
    return config.model_copy(update=changes)


def _metadata_of(
    config: DenoiserRunConfig, source: Source | TokenShards, tokenizer: ImageTokenizer
) -> dict[str, Any]:
    """Return what the tokens of one set depend on."""
    if isinstance(source, TokenShards) or config.cache is None:
        assert isinstance(source, TokenShards)
        return source.metadata
    with name_key("cache.path"):
        return make_plan(config.cache.path, config.data, source, tokenizer, config.cache.samples).wanted


def _shards_of(
    config: DenoiserRunConfig, source: Source | TokenShards, tokenizer: ImageTokenizer
) -> TokenShards:
    """Return the token shards of one set of images."""
    data, cache = config.data, config.cache
    if isinstance(source, TokenShards) or data.kind == "tokens" or cache is None:
        assert isinstance(source, TokenShards)
        with name_key("data.path"):
            check_tokenizer(source, tokenizer, f"tokenizer: {config.tokenizer}")
        return source
    if source.length is not None and cache.samples is not None and source.length > cache.samples:
        logger.warning(
            "cache.samples is %d: the other %d of the %d images are not trained on",
            cache.samples, source.length - cache.samples, source.length,
        )  # fmt: skip
    with name_key("cache.path"):
        plan = make_plan(cache.path, data, source, tokenizer, cache.samples)
        return encode_source(plan, source, tokenizer, str(find_device(config.loop.device)))


def count_codes(shards: TokenShards) -> torch.Tensor:
    """Return how often each code occurs, (V,) int64, among evenly spaced images if there are very many."""
    tokens = sum(count * h * w for (h, w), count in shards.grids.items())
    rows = range(0, len(shards), -(-tokens // _MOST_COUNTED))
    counts = torch.zeros(shards.codes, dtype=torch.int64)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        found = [shards.tokens(row)[0].ravel() for row in rows[start : start + _ROWS_AT_ONCE]]
        counts += torch.bincount(torch.from_numpy(np.concatenate(found)), minlength=shards.codes)
    return counts
