"""A model folder whose layers are stored in fewer bits, written tensor by tensor.

The folder has the format of docs/format.md. In place of the matrix `NAME.weight` of a layer it holds the tensors of
`smalti.runtime.quantization`: `NAME.stored`, `NAME.scale` and, in 4 bits, `NAME.zero`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smalti.common.checks import check_choice, check_flag, check_path, check_whole, quoted
from smalti.common.files import read_json, read_text, write_text_atomic
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.runtime.memory import INT4_GROUP
from smalti.runtime.quantization import (
    QUANTIZATIONS,
    check_group,
    empty_linear,
    import_torchao,
    quantized_linear,
)
from smalti.storage.entries import PREFIX, Entry, check_floats
from smalti.storage.folder import (
    EMBEDDINGS,
    NoInit,
    existing,
    find_image_tokenizer,
    load_config,
    load_text_tokenizer,
    load_words,
    named,
    save_words,
)
from smalti.storage.headers import read_denoisers
from smalti.storage.mapping import FLOATS, map_tensor, read_tensor
from smalti.storage.sizes import check_denoiser_sizes, check_image_tokenizer_sizes
from smalti.storage.space import check_space
from smalti.storage.streaming_file import write_tensors
from smalti.storage.weights import check_weights, write_files
from smalti.vq.tokenizer import ImageTokenizer

_PIECE = 2**25  # numbers of a tensor that are copied at a time


def quantize_model(
    model: str | Path,
    quantize: str,
    folder: str | Path,
    *,
    group: int = INT4_GROUP,
    embeddings: bool = False,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a model whose layers' matrices are stored in fewer bits. It loads without torchao.

    Memory holds one tensor at a time. All other tensors keep their numbers and their dtypes, except that the tables of
    the embeddings are stored in int8 if `embeddings` says so. Loading the folder gives the layers that
    `load(model, quantize=…)` makes of the file's own dtype.

    Args:
        model: model folder with float weights.
        quantize: "int8", "int4" or "fp8", as for `smalti.runtime.quantization.quantized_linear`.
        folder: folder of the new model. It is created if needed, and must not be the model's.
        group: numbers that share a scale and a zero point in int4: 16, 32, 64, 128 or 256.
        embeddings: whether both embeddings are stored in int8, a scale a row.
        max_shard_bytes: largest size of a file; larger ones are split.

    Raises:
        SmaltiError: a wrong argument, by name. The model cannot be read or is quantized already. The folder cannot be
            written, or its disk is too small. torchao, which int8 and int4 need, is not installed.

    Example:
        >>> import smalti
        >>> from smalti.storage.loading import find_model
        >>> quantize_model(find_model("scenes"), "fp8", "small")
        >>> str(smalti.load("small").components.mode)
        'fp8 layers in float32 arithmetic'
    """
    check_choice("quantize", quantize, QUANTIZATIONS)
    check_group(group)
    embeddings = check_flag("embeddings", embeddings)
    check_whole("max_shard_bytes", max_shard_bytes)
    if quantize != "fp8" or embeddings:
        import_torchao()
    model, folder = existing(model), check_path("folder", folder)
    config, entries = load_config(model), read_denoisers(model)
    _check_target(model, folder, config.mm_vqvae)
    check_floats(entries.values(), model, "smalti quantize")
    named(model / "config.json", lambda: check_denoiser_sizes(config, entries, PREFIX))
    with torch.device("meta"), NoInit():
        check_weights(Denoiser(config), entries, PREFIX, model)
    text = read_text(model / "tokenizer.json")
    load_text_tokenizer(model)
    plan = {name: _plan(name, entry, quantize, group, embeddings) for name, entry in entries.items()}
    vq = _image_tokenizer(model)
    sizes = {
        tensor: like.nbytes
        for tensors, _ in [*plan.values(), *vq[1].values()]
        for tensor, like in tensors.items()
    }
    check_space(folder, sum(sizes.values()))
    words = load_words(model)

    def rest() -> None:
        _write(vq[1], vq[0], folder / config.mm_vqvae, None)
        write_text_atomic(folder / "tokenizer.json", text)
        if words:
            save_words(words, folder)

    values = {**read_json(model / "config.json"), **config.to_dict()}
    values["quantization_config"] = {"quant_method": "smalti", "layers": quantize}
    if quantize == "int4":
        values["quantization_config"]["group_size"] = group
    if embeddings:
        values["quantization_config"]["embeddings"] = "int8"
    # The denoiser takes long, and a model that the folder holds stays whole meanwhile. Its files and config.json get
    # their names last: without them the folder is not yet a model.
    _write(plan, values, folder, max_shard_bytes, rest)


Plan = tuple[dict[str, torch.Tensor], Callable[[], Iterator[torch.Tensor]]]
"""The tensors that are written in place of one, on the meta device by name, and a function that yields their values."""


def _plan(name: str, entry: Entry, quantize: str, group: int, embeddings: bool) -> Plan:
    """Return what is written in place of a tensor of the denoiser."""
    module = name.removeprefix(PREFIX).removesuffix(".weight")
    in_layers = module.startswith(("layers.", "text_layers.")) and len(entry.shape) == 2
    kind = quantize if in_layers else "int8" if embeddings and module in EMBEDDINGS else None
    if kind is None:
        return _copied(name, entry)
    dtype = FLOATS[entry.dtype]
    rows, columns = entry.shape
    empty = empty_linear(rows, columns, kind, dtype, group)
    like = {f"{PREFIX}{module}.{part}": tensor.data for part, tensor in empty.named_parameters()}

    def values() -> Iterator[torch.Tensor]:
        layer = quantized_linear(read_tensor(entry, "cpu", dtype), kind, group)
        for part in layer.parameters():
            if not bool(part.float().isfinite().all()):
                raise SmaltiError(f"weights must be finite, but {name} of {entry.path} is not")
            yield part.detach()

    return like, values


def _copied(name: str, entry: Entry) -> Plan:
    """Return that a tensor is written as it is."""

    def values() -> Iterator[torch.Tensor]:
        for start in range(0, entry.count, _PIECE):
            yield map_tensor(entry, start, min(_PIECE, entry.count - start))

    return {name: torch.empty(entry.shape, dtype=FLOATS[entry.dtype], device="meta")}, values


def _image_tokenizer(model: Path) -> tuple[dict[str, Any], dict[str, Plan]]:
    """Return the configuration of a model's image tokenizer, and what is written of it: all of it, as it is."""
    folder, prefix, entries, config = find_image_tokenizer(model)
    named(folder / "config.json", lambda: check_image_tokenizer_sizes(config, entries, prefix))
    with torch.device("meta"), NoInit():
        module: nn.Module = ImageTokenizer(config)
    check_weights(module, entries, prefix, folder)
    return config.to_dict(), {
        name: _copied(name.removeprefix(prefix), entry) for name, entry in entries.items()
    }


def _write(
    plan: dict[str, Plan],
    config: dict[str, Any],
    folder: Path,
    max_shard_bytes: int | None,
    before: Callable[[], None] | None = None,
) -> None:
    """Write the weights of a plan and `config.json`, and call `before` before the files get their names."""
    made = {next(iter(like)): (like, values) for like, values in plan.values()}
    groups = {
        first: {name: tensor.nbytes for name, tensor in like.items()} for first, (like, _) in made.items()
    }

    def write(path: Path, firsts: list[str]) -> None:
        shapes = {name: tensor for first in firsts for name, tensor in made[first][0].items()}
        write_tensors(path, shapes, (piece for first in firsts for piece in made[first][1]()))

    write_files(groups, config, folder, max_shard_bytes, write, before)


def _check_target(model: Path, folder: Path, vq: str) -> None:
    """Raise SmaltiError if a folder that is written is one that is read."""
    read = {path.resolve() for path in (model, model / vq)}
    for path in (folder, folder / vq):
        if path.resolve() in read:
            raise SmaltiError(
                f"folder must not be the model's, whose files would be lost, not {quoted(str(folder))}",
                argument="folder",
            )
