"""Model folders: the denoiser, the image tokenizer and the text tokenizer, read strictly, written atomically.

The format is the reference model's (docs/format.md, section 1).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from smalti.common.checks import check_choice, check_path, quoted
from smalti.common.files import read_json, read_text, write_text_atomic
from smalti.errors import SmaltiError
from smalti.model.config import MODEL_TYPE, DenoiserConfig
from smalti.model.denoiser import Denoiser
from smalti.model.text import TextTokenizer
from smalti.model.words import WORDS_FILE
from smalti.runtime.quantization import quantized_linear
from smalti.storage.entries import PREFIX, Entry, PackedEntry, layers_kind
from smalti.storage.headers import VQ_PREFIX, is_image_tokenizers, read_denoisers, read_headers
from smalti.storage.mapping import FLOATS, MappedEmbedding, PackedEmbedding, read_matrix, read_tensor
from smalti.storage.savable import check_savable
from smalti.storage.sizes import check_denoiser_sizes, check_image_tokenizer_sizes
from smalti.storage.vq_shape import infer_vq_config
from smalti.storage.weights import read_weights, write_weights
from smalti.vq.config import VQConfig
from smalti.vq.quantizer import Quantizer
from smalti.vq.tokenizer import ImageTokenizer

T = TypeVar("T")

VQ_TYPE = "Emu3p5VisionVQ"
EMBEDDINGS = ("embed_tokens", "gen_embedding")
OFFLOADS = ("layers",)


class NoInit(TorchFunctionMode):
    """A mode in which new modules get no random weights and no ones, because the weights are read next.

    On the meta device PyTorch would import its compiler to draw them, which takes a second. Ones go through Python.
    """

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", *args[:1])
        if function is torch.ones:
            function = torch.empty
        return function(*args, **kwargs)


def load_denoiser(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    mapped: Collection[str] = (),
    quantize: str | None = None,
    offload: str | None = None,
    adapt: Callable[[Denoiser], None] | None = None,
) -> Denoiser:
    """Read the denoiser of a model folder. The options are for sampling; without them the denoiser can be trained.

    Args:
        folder: model folder.
        device: device of the parameters. With "meta" only headers are read.
        dtype: dtype of the parameters; None means the dtype of each tensor in its file.
        mapped: embeddings that stay in their file, of which only the requested rows are read: `EMBEDDINGS` or one of
            them.
        quantize: "int8", "int4" or "fp8" stores the layers' matrices in fewer bits (`smalti.runtime.quantization`).
            A folder that stores them so already needs no option, and takes no other.
        offload: "layers" keeps the layers in the host's memory and copies them to the device one by one
            (`smalti.runtime.streaming`). It changes nothing on the CPU.
        adapt: function that adds adapters to the denoiser before its layers are streamed, or None.

    Raises:
        SmaltiError: a folder that is missing or of another architecture, or an unknown option. A file that is missing,
            truncated or not what the index says. A tensor that is missing, unknown or of another shape.
    """
    for name in mapped:
        check_choice("mapped", name, EMBEDDINGS)
    if offload is not None:
        check_choice("offload", offload, OFFLOADS)
    device = torch.device(device)
    streamed = offload is not None and device.type == "cuda"

    def special(name: str, entry: Entry) -> torch.Tensor | nn.Module | None:
        module = name.removesuffix(".weight")
        in_layers = module.startswith(("layers.", "text_layers."))
        on_host = streamed and module.startswith("layers.")
        if isinstance(entry, PackedEntry):
            target = dtype or torch.bfloat16
            if in_layers:
                return read_matrix(entry, "cpu" if on_host else device, pinned=on_host)
            if module in EMBEDDINGS:
                return PackedEmbedding(entry, device, target, mapped=module in mapped)
            return read_matrix(entry, device).dequantize(target)
        target = dtype or FLOATS[entry.dtype]
        if module in mapped:
            return MappedEmbedding(entry, target)
        if quantize is not None and in_layers and len(entry.shape) == 2:
            linear = quantized_linear(read_tensor(entry, device, target), quantize)
            return linear.pin() if on_host else linear
        return read_tensor(entry, "cpu", target, pinned=True) if on_host else None

    folder = existing(folder)
    config, entries = load_config(folder), read_denoisers(folder)
    check_stored(quantize, layers_kind(entries), folder)
    named(folder / "config.json", lambda: check_denoiser_sizes(config, entries, PREFIX))
    with torch.device("meta"), NoInit():
        denoiser = Denoiser(config)
    read_weights(denoiser, entries, PREFIX, folder, device, dtype, special, packed=True)
    if adapt is not None:
        adapt(denoiser)
    if streamed:
        from smalti.runtime.streaming import StreamedLayers

        denoiser.layers = StreamedLayers(denoiser.layers, device)
    return denoiser.eval()


def check_stored(quantize: str | None, stored: str | None, folder: Path) -> None:
    """Raise SmaltiError if layers are to be quantized that a folder stores in another way."""
    if quantize is not None and stored not in (None, quantize):
        raise SmaltiError(
            f"quantize must be left out for {folder}, whose layers are stored as {stored}, not {quoted(quantize)}",
            argument="quantize",
        )


def load_image_tokenizer(
    folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
) -> ImageTokenizer:
    """Read an image tokenizer from its own folder, or from the folder of the model that it belongs to.

    If a model folder lacks the folder that `mm_vqvae` names, the copy inside the model's weights is read.

    Args:
        folder: folder of the image tokenizer or of the model.
        device: device of the parameters.
        dtype: dtype of the parameters; None means the dtype of each tensor in its file.

    Raises:
        SmaltiError: as for `load_denoiser`.
    """
    folder, prefix, entries, config = find_image_tokenizer(folder)
    named(folder / "config.json", lambda: check_image_tokenizer_sizes(config, entries, prefix))
    with torch.device("meta"), NoInit():
        tokenizer = ImageTokenizer(config)
    read_weights(tokenizer, entries, prefix, folder, device, dtype)
    return tokenizer.eval()


def load_codebook(folder: str | Path) -> torch.Tensor:
    """Read the codebook alone, (V, C) float32, from the folders of `load_image_tokenizer`.

    Raises:
        SmaltiError: as for `load_denoiser`.
    """
    folder, prefix, entries, config = find_image_tokenizer(folder)
    prefix += "quantize."
    entries = {name: entry for name, entry in entries.items() if name.startswith(prefix)}
    with torch.device("meta"), NoInit():
        quantizer = Quantizer(config)
    read_weights(quantizer, entries, prefix, folder, "cpu", torch.float32)
    return quantizer.embedding.weight.detach()


def load_text_tokenizer(folder: str | Path) -> TextTokenizer:
    """Read the text tokenizer of a model folder.

    Raises:
        SmaltiError: the tokenizer is missing, broken, or has more ids than the denoiser embeds.
    """
    folder = existing(folder)
    tokenizer = TextTokenizer.from_file(folder / "tokenizer.json")
    config = load_config(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise SmaltiError(
            f"{folder / 'tokenizer.json'} has {tokenizer.vocab_size} ids, "
            f"more than vocab_size {config.vocab_size}"
        )
    return tokenizer


def load_config(folder: str | Path) -> DenoiserConfig:
    """Read the denoiser's configuration; a missing codebook size comes from the image tokenizer's.

    Raises:
        SmaltiError: the folder or its `config.json` is missing, or a field is wrong.
    """
    folder = existing(folder)
    path = folder / "config.json"
    values = read_json(path)
    if values.get("codebook_size") is None and values.get("model_type") == MODEL_TYPE:
        inner = folder / image_tokenizer_name(folder)
        if os.path.isfile(inner / "config.json"):
            values["codebook_size"] = load_vq_config(inner).codebook_size
        else:
            head = read_denoisers(folder).get(PREFIX + "gen_predictor.weight")
            values["codebook_size"] = head.shape[0] if head and head.shape else None
    return named(path, lambda: DenoiserConfig.from_dict(values))


def save_denoiser(
    denoiser: Denoiser,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5_000_000_000,
    before: Callable[[], None] | None = None,
) -> None:
    """Write `config.json` and the weights, in shards with an index if they exceed `max_shard_bytes`.

    All files are written under temporary names and renamed once all of them are on the disk. An existing model stays
    whole until then. `smalti.storage.saving.save_model` writes a whole model.

    Args:
        denoiser: the denoiser.
        folder: model folder to write.
        dtype: dtype of the written weights, or None for that of each tensor.
        max_shard_bytes: largest size of a file, or None for one file.
        before: function that is called once all files are on the disk, and none has its name yet.

    Raises:
        SmaltiError: the folder cannot be written, or the denoiser was loaded with `quantize` or has adapters.
    """
    check_savable(denoiser)
    weights = {PREFIX + name: tensor for name, tensor in denoiser.state_dict().items()}
    write_weights(weights, denoiser.config.to_dict(), folder, dtype, max_shard_bytes, before)


def save_image_tokenizer(
    tokenizer: ImageTokenizer, folder: str | Path, *, dtype: torch.dtype | None = None
) -> None:
    """Write `config.json` and `model.safetensors` of an image tokenizer, as `save_denoiser` does.

    Raises:
        SmaltiError: the folder cannot be written.
    """
    write_weights(tokenizer.state_dict(), tokenizer.config.to_dict(), folder, dtype, None)


def existing(folder: str | Path) -> Path:
    """Return the folder as a path, or raise SmaltiError if it does not exist or is clearly of another kind."""
    folder = check_path("model folder", folder)
    if not os.path.isdir(folder):
        raise SmaltiError(f"model folder {folder} does not exist")
    if not os.path.isfile(folder / "config.json"):
        if os.path.isfile(folder / "adapter_config.json"):
            raise SmaltiError(
                f"{folder} is an adapter, not a model: name its base as the model, and it as adapter"
            )
        if os.path.isfile(folder / "model" / "config.json"):
            raise SmaltiError(f"{folder} is no model, but {folder / 'model'} is one")
    return folder


def read_model_type(folder: Path) -> str:
    """Return the folder's model_type, one of the two known."""
    path = folder / "config.json"
    kind = read_json(path).get("model_type")
    if kind not in (MODEL_TYPE, VQ_TYPE):
        raise SmaltiError(f"{path}: model_type must be {MODEL_TYPE!r} or {VQ_TYPE!r}, not {kind!r}")
    return kind


def image_tokenizer_name(folder: Path) -> str:
    """Return `mm_vqvae` of a model's `config.json`, the name of a folder inside the model's."""
    name = read_json(folder / "config.json").get("mm_vqvae", DenoiserConfig.mm_vqvae)
    # By the rules of Windows, where a backslash, a drive or a root leads elsewhere, too.
    place = PureWindowsPath(name) if isinstance(name, str) else PureWindowsPath()
    if not place.parts or place.anchor or ".." in place.parts or "\\" in str(name) or "\0" in str(name):
        raise SmaltiError(
            f"{folder / 'config.json'}: mm_vqvae must name a folder inside the model's, not {quoted(name)}"
        )
    return name


def find_image_tokenizer(folder: str | Path) -> tuple[Path, str, dict[str, Entry], VQConfig]:
    """Find an image tokenizer: return its folder, the prefix of its tensors, their headers, and its shape."""
    folder = existing(folder)
    prefix = ""
    if read_model_type(folder) == MODEL_TYPE:
        inner = folder / image_tokenizer_name(folder)
        if os.path.isfile(inner / "config.json"):
            folder = inner
        else:
            prefix = VQ_PREFIX
    entries = read_headers(folder, is_image_tokenizers if prefix else None)
    entries = {name: entry for name, entry in entries.items() if name.startswith(prefix)}
    if prefix and not entries:
        raise SmaltiError(f"{inner} does not exist, and {folder} holds no {VQ_PREFIX}* tensors in its place")
    config = infer_vq_config(entries, folder) if prefix else load_vq_config(folder)
    return folder, prefix, entries, config


def load_words(folder: str | Path) -> frozenset[str]:
    """Return the words of the training captions from `words.txt`, one per line; none if the file is missing.

    Raises:
        SmaltiError: the file cannot be read.
    """
    path = Path(folder) / WORDS_FILE
    return frozenset(read_text(path).split()) if os.path.exists(path) else frozenset()


def save_words(words: Collection[str], folder: str | Path) -> None:
    """Write the words of the training captions to `words.txt` in a model folder, sorted, one per line."""
    write_text_atomic(Path(folder) / WORDS_FILE, "".join(f"{word}\n" for word in sorted(words)))


def load_vq_config(folder: Path) -> VQConfig:
    """Read the configuration in an image tokenizer's folder; raise SmaltiError for another kind of folder."""
    path = folder / "config.json"
    values = read_json(path)
    if values.get("model_type") != VQ_TYPE:
        raise SmaltiError(f"{path}: model_type must be {VQ_TYPE!r}, not {values.get('model_type')!r}")
    return named(path, lambda: VQConfig.from_dict(values))


def named(path: Path, read: Callable[[], T]) -> T:
    """Return the result of `read`; errors name `path`."""
    try:
        return read()
    except SmaltiError as error:
        raise SmaltiError(f"{path}: {error}") from error
