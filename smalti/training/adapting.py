"""Training of adapters: a frozen base as it is stored, low-rank updates that learn, an adapter folder in the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from smalti.common.devices import find_device
from smalti.common.randomness import stream
from smalti.errors import SmaltiError
from smalti.model.adapter import Adapter
from smalti.model.config import DenoiserConfig
from smalti.model.denoiser import Denoiser
from smalti.model.lora import add_adapters
from smalti.runtime.memory import mapped_by_default
from smalti.runtime.quantization import empty_linear
from smalti.storage.adapters import save_adapter
from smalti.storage.entries import layers_kind
from smalti.storage.folder import NoInit, existing, load_config, load_denoiser
from smalti.storage.headers import read_denoisers
from smalti.training.config import DenoiserRunConfig
from smalti.training.precision import uses_bf16

# Fields that do not change what a denoiser computes.
_FREE = {"sampling", "presets"}
_UPDATE = ".adapters.0."


def base_config(config: DenoiserRunConfig) -> DenoiserConfig:
    """Return the configuration of the base, `start_from`, with the sampling settings of the section `model`.

    Raises:
        SmaltiError: the section describes another model than the base.
    """
    assert config.start_from is not None  # the configuration is checked
    base = load_config(config.start_from)
    chosen = DenoiserConfig.from_dict({**base.to_dict(), **config.model})
    ours, theirs = chosen.to_dict(), base.to_dict()
    for name in ours:
        if name not in _FREE and ours[name] != theirs.get(name):
            raise SmaltiError(
                f"model.{name} must be {theirs.get(name)}, as in start_from, or be left out, because an adapter "
                "leaves the model as it is"
            )
    return chosen


def adapted_denoiser(config: DenoiserRunConfig) -> Denoiser:
    """Return the base on its device, frozen, with new adapters that change nothing yet.

    Frozen weights have the dtype of the products. A large text embedding stays in its file.

    Raises:
        SmaltiError: the base cannot be read or lacks a target.
    """
    assert config.adapter is not None and config.start_from is not None
    sharded = config.distribution.strategy == "fsdp"
    denoiser = load_denoiser(
        config.start_from,
        device="cpu" if sharded else find_device(config.loop.device),
        dtype=base_dtype(config),
        mapped=_mapped(config, load_config(config.start_from)),
        quantize=config.adapter.quantize,
    )
    add_adapters(denoiser, config.adapter.shape, stream(config.seed, "adapter"))
    return denoiser


def adapted_shape(config: DenoiserRunConfig, shape: DenoiserConfig) -> Denoiser:
    """Return what `adapted_denoiser` returns on the meta device, to count its bytes before the base is read.

    A large text embedding, which stays in its file, is empty.

    Raises:
        SmaltiError: the base lacks a target, or is quantized and sharded.
    """
    assert config.adapter is not None
    if config.distribution.strategy == "fsdp" and config.adapter.quantize:
        raise SmaltiError("adapter.quantize needs distribution.strategy=ddp: stored integers are not sharded")
    dtype, mapped = base_dtype(config), _mapped(config, shape)
    assert config.start_from is not None
    if layers_kind(read_denoisers(existing(config.start_from))) is not None:
        if config.distribution.strategy == "fsdp":
            raise SmaltiError(
                "start_from with quantized layers needs distribution.strategy=ddp: integers are not sharded"
            )
        denoiser = load_denoiser(config.start_from, device="meta", dtype=dtype)
        if mapped:
            with torch.device("meta"):
                denoiser.embed_tokens = torch.nn.Embedding(0, shape.hidden_size, dtype=dtype)
        add_adapters(denoiser, config.adapter.shape, torch.Generator())
        return denoiser
    with torch.device("meta"), NoInit():
        denoiser = Denoiser(shape).to(dtype)
        if mapped:
            denoiser.embed_tokens = torch.nn.Embedding(0, shape.hidden_size, dtype=dtype)
    if config.adapter.quantize:
        for name, module in list(denoiser.named_modules()):
            if isinstance(module, torch.nn.Linear) and name.startswith(("layers.", "text_layers.")):
                parent, _, leaf = name.rpartition(".")
                size = module.out_features, module.in_features
                small = empty_linear(*size, config.adapter.quantize, dtype)
                setattr(denoiser.get_submodule(parent), leaf, small)
    add_adapters(denoiser, config.adapter.shape, torch.Generator())
    return denoiser


def base_dtype(config: DenoiserRunConfig) -> torch.dtype:
    """Return the dtype of the frozen weights, which is that of the products."""
    return torch.bfloat16 if uses_bf16(config.loop, find_device(config.loop.device)) else torch.float32


def _mapped(config: DenoiserRunConfig, base: DenoiserConfig) -> tuple[str, ...]:
    """Return the embeddings that stay in their file. Shards are in memory."""
    if config.distribution.strategy == "fsdp":
        return ()
    name = str(base_dtype(config)).removeprefix("torch.")
    return mapped_by_default(base.vocab_size * base.hidden_size, name)


def write_adapter(
    weights: Mapping[str, torch.Tensor], config: DenoiserRunConfig, words: list[str], folder: Path
) -> None:
    """Write an adapter folder from the trained weights by the names of the denoiser's parameters."""
    assert config.adapter is not None and config.start_from is not None
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in weights.items():
        module, _, part = name.partition(_UPDATE)
        parts.setdefault(module, {})[part] = value
    shape = config.adapter.shape
    adapters = {
        module: Adapter(tensors["down"], tensors["up"], tensors.get("magnitude"), scale=shape.scale)
        for module, tensors in parts.items()
    }
    save_adapter(adapters, folder, shape, base=config.start_from, words=words)
