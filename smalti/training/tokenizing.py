"""`smalti tokenize` and `smalti pack`: a source on the command line, as token shards or as tar shards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from smalti.common.checks import check_whole
from smalti.common.devices import find_device
from smalti.data.config import DataConfig, DataSection
from smalti.data.folder import ImageFolder
from smalti.data.packing import folder_images, world_images, write_tars
from smalti.data.tars import TarShards
from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError
from smalti.storage.folder import load_image_tokenizer
from smalti.training.data_config import MOST_IMAGES, EncodingConfig
from smalti.training.encoding import encode_source, make_plan, open_source, print_buckets
from smalti.training.launching import spread
from smalti.training.reading import apply_override, explain, name_key

WORLDS = ("scenes", "objects")
"""Sources that are no folders."""


def describe_source(source: str, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Return the section `data` of a source, not checked yet.

    Args:
        source: "scenes", "objects", or a folder of images or of tars.
        settings: further keys of the section, such as "size=512".

    Raises:
        SmaltiError: a setting is not key=value.

    Example:
        >>> describe_source("scenes", ["size=64"])
        {'kind': 'scenes', 'size': 64}
    """
    values: dict[str, Any] = {"kind": source}
    if source not in WORLDS:
        tars = next(Path(source).glob("*.tar"), None) if Path(source).is_dir() else None
        values = {"kind": "shards" if tars else "folder", "path": source}
    for setting in settings:
        apply_override(values, setting)
    return values


def read_encoding(values: dict[str, Any]) -> EncodingConfig:
    """Return what `tokenize` takes.

    Raises:
        SmaltiError: a value is wrong; the message names its key.
    """
    try:
        return EncodingConfig.model_validate(values)
    except ValidationError as error:
        raise SmaltiError(explain(EncodingConfig, error)) from error


def tokenize(config: EncodingConfig) -> dict[str, Any]:
    """Turn images into token shards, and return what they hold.

    Under torchrun every process calls this; otherwise `config.loop.processes` are started here. A second call continues
    an interrupted one.

    Raises:
        SmaltiError: the images or the tokenizer cannot be read, or the folder holds tokens of other images.
    """
    return spread(_run, config)


def _run(config: EncodingConfig) -> dict[str, Any]:
    with name_key("tokenizer"):
        tokenizer = load_image_tokenizer(config.tokenizer)
    source = open_source(config.data)
    if isinstance(source, TokenShards):
        raise SmaltiError(f"{config.data.path} holds tokens already")  # type: ignore[union-attr]
    plan = make_plan(config.output, config.data, source, tokenizer, config.samples)
    device = str(find_device(config.loop.device))
    shards = encode_source(plan, source, tokenizer, device, config.loop.batch_size)
    print_buckets(shards)
    return {
        "folder": config.output,
        "images": len(shards),
        "skipped": plan.samples - len(shards),
        "captions": shards.captions,
        "bytes": shards.bytes,
        "grids": {f"{h}×{w}": count for (h, w), count in shards.grids.items()},
    }


def pack(values: dict[str, Any], folder: str | Path, samples: int | None, per_tar: int) -> dict[str, Any]:
    """Write images as tar shards with indexes, and return what they hold.

    Args:
        values: section `data` of the images, as `describe_source` returns it.
        folder: an empty folder, which is created.
        samples: number of images; None takes all of a folder.
        per_tar: images of a tar.

    Raises:
        SmaltiError: the images cannot be read, or the folder cannot be written.
    """
    samples = None if samples is None else check_whole("samples", samples, 1, MOST_IMAGES)
    per_tar = check_whole("per_tar", per_tar, 1, MOST_IMAGES)
    try:
        data: DataSection = TypeAdapter(DataConfig).validate_python(values)
    except ValidationError as error:
        raise SmaltiError(explain(EncodingConfig, error)) from error
    source = data.training()
    if isinstance(source, TarShards | TokenShards):
        raise SmaltiError(
            "source must be a folder of images, scenes or objects, not shards", argument="source"
        )
    if isinstance(source, ImageFolder):
        tars = write_tars(folder, islice(folder_images(source), samples), per_tar)
    elif samples is None:
        raise SmaltiError(f"samples must be given for {data.kind}, which are endless", argument="samples")
    else:
        tars = write_tars(folder, world_images(source, samples), per_tar)
    return {"folder": str(folder), "tars": len(tars), "bytes": sum(tar.stat().st_size for tar in tars)}
