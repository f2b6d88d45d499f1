"""What a model folder holds, from its JSON files and the headers of its weights alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smalti.model.config import MODEL_TYPE
from smalti.model.denoiser import Denoiser
from smalti.storage.entries import PREFIX, Entry, PackedEntry, layers_kind, stored_kind
from smalti.storage.folder import (
    NoInit,
    existing,
    image_tokenizer_name,
    load_config,
    load_vq_config,
    named,
    read_model_type,
)
from smalti.storage.headers import VQ_PREFIX, is_denoisers, is_image_tokenizers, read_headers
from smalti.storage.sizes import check_denoiser_sizes, check_image_tokenizer_sizes
from smalti.storage.vq_shape import infer_vq_config
from smalti.storage.weights import check_weights
from smalti.vq.config import VQConfig
from smalti.vq.tokenizer import ImageTokenizer

# A reader of headers: takes a folder and which names are needed, returns tensors by name.
Headers = Callable[[Path, Callable[[str], bool] | None], dict[str, Entry]]


def inspect(folder: str | Path, headers: Headers = read_headers) -> dict[str, Any]:
    """Check a model folder and describe what it holds, without reading any weight.

    Args:
        folder: folder of a model or an image tokenizer.
        headers: reader of the headers, by default of the folder's files.

    Returns:
        `model_type`; `config`, the fields that matter; `parameters`, a count for each part and their `total`
        (`unused` counts tensors that are never read, and is not in the total); `dtypes`, parameters by stored
        dtype; `bytes` and `files` of the weights. `quantized`, where matrices are stored in fewer bits: how the
        `layers` are, and the `bytes` of each part with such matrices. For a model also `image_tokenizer`: the same
        report of the image tokenizer beside the model or inside its files, or None.

    Raises:
        SmaltiError: as for `smalti.storage.folder.load_denoiser`.
    """
    folder = existing(folder)
    if read_model_type(folder) != MODEL_TYPE:
        config = load_vq_config(folder)
        return _image_tokenizer_report(config, headers(folder, None), "", folder)
    denoiser_config = load_config(folder)
    every = headers(folder, is_denoisers)
    entries = {name: entry for name, entry in every.items() if is_denoisers(name)}
    unused = {name: entry for name, entry in every.items() if name not in entries}
    named(folder / "config.json", lambda: check_denoiser_sizes(denoiser_config, entries, PREFIX))
    with torch.device("meta"), NoInit():
        denoiser = Denoiser(denoiser_config)
    check_weights(denoiser, entries, PREFIX, folder, packed=True)
    inner = folder / image_tokenizer_name(folder)
    image_tokenizer = None
    if os.path.isfile(inner / "config.json"):
        image_tokenizer = inspect(inner, headers)
    else:
        inside = {name: entry for name, entry in unused.items() if is_image_tokenizers(name)}
        if inside:
            image_tokenizer = _image_tokenizer_report(
                infer_vq_config(inside, folder), inside, VQ_PREFIX, folder
            )
            unused = {name: entry for name, entry in unused.items() if name not in inside}
    report = _report(MODEL_TYPE, denoiser_config.to_dict(), entries, unused, PREFIX)
    return {**report, **_stored(entries), "image_tokenizer": image_tokenizer}


def _stored(entries: dict[str, Entry]) -> dict[str, Any]:
    """Return what a report says of parts that are stored in fewer bits: their bytes by part, and how the layers are."""
    if stored_kind(entries.values()) is None:
        return {}
    sizes: Counter[str] = Counter()
    packed = set()
    for name, entry in entries.items():
        part = name.removeprefix(PREFIX).split(".")[0]
        sizes[part] += sum(place.size for place in entry.places())
        if isinstance(entry, PackedEntry):
            packed.add(part)
    return {
        "quantized": {"layers": layers_kind(entries), "bytes": {part: sizes[part] for part in sorted(packed)}}
    }


def _image_tokenizer_report(
    config: VQConfig, entries: dict[str, Entry], prefix: str, folder: Path
) -> dict[str, Any]:
    named(folder / "config.json", lambda: check_image_tokenizer_sizes(config, entries, prefix))
    with torch.device("meta"), NoInit():
        module: nn.Module = ImageTokenizer(config)
    check_weights(module, entries, prefix, folder)
    values = config.to_dict()
    return _report(values["model_type"], values, entries, {}, prefix)


def _report(
    kind: str, config: dict[str, Any], entries: dict[str, Entry], unused: dict[str, Entry], prefix: str
) -> dict[str, Any]:
    """Build the part of the report that all folders have in common."""
    parts: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    sizes: dict[Path, int] = {}
    for name, entry in entries.items():
        parts[name.removeprefix(prefix).split(".")[0]] += entry.count
        dtypes[entry.dtype] += entry.count
    for entry in [*entries.values(), *unused.values()]:
        for place in entry.places():
            sizes[place.path] = max(sizes.get(place.path, 0), place.offset + place.size)
    return {
        "model_type": kind,
        "config": config,
        "parameters": {
            **parts,
            "total": sum(parts.values()),
            "unused": sum(entry.count for entry in unused.values()),
        },
        "dtypes": dict(dtypes),
        "bytes": sum(sizes.values()),
        "files": sorted(path.name for path in sizes),
    }
