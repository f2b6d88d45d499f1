"""The memory that a training needs on a device: arithmetic alone, nothing is measured.

The number of bytes that a layer keeps for its gradient follows from the operations of smalti/model/backbone.py; a test
compares it with what PyTorch keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from smalti.model.config import DenoiserConfig

_SPARE = 300_000_000  # workspaces of libraries, rounding of the allocator
_CHUNK_BYTES = {"cpu": 2**23}  # logits of a chunk in smalti/ops/gce.py
_CHUNK_BYTES_ELSEWHERE = 2**28
_GATHERED = 2  # sharded layers whose weights are whole at a time: one computes, one is gathered
_MOMENT_BYTES = {"adamw8bit": 2 * (1 + 4 / 256)}  # two bytes a weight, and a scale for 256 of them


@dataclass(frozen=True)
class TrainingMode:
    """What the memory of a training depends on, apart from the model.

    Attributes:
        batch: images that are computed at once.
        grid: height and width of the grid in tokens.
        text: text ids of a prompt, without the image's slots.
        weights: dtype of the trained weights.
        bf16: whether products are in bfloat16.
        recompute: k, if every k-th layer keeps its input alone; 0 if all keep everything.
        optimizer: "adamw" or "adamw8bit".
        averaged: whether there is a moving average of the weights.
        shards: number of processes over which weights, gradients and optimizer are sharded; 1 for copies.
        device: kind of the device, such as "cuda".
        base: dtype of a frozen base and of what passes between its layers; None means that of the trained weights.
        quantized: whether a frozen base stores its layers in fewer bits, and unpacks a matrix at a time.
    """

    batch: int
    grid: tuple[int, int]
    text: float
    weights: torch.dtype = torch.float32
    bf16: bool = True
    recompute: int = 0
    optimizer: str = "adamw"
    averaged: bool = True
    shards: int = 1
    device: str = "cuda"
    base: torch.dtype | None = None
    quantized: bool = False

    @property
    def stream(self) -> int:
        """Return the bytes of a number between layers."""
        return (self.base or self.weights).itemsize

    @property
    def product(self) -> int:
        """Return the bytes of a number in a product."""
        return 2 if self.bf16 else self.stream


@dataclass(frozen=True)
class TrainingNeed:
    """The bytes that a training needs on a device, computed.

    Attributes:
        parts: bytes by part.
    """

    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Return the bytes of all parts."""
        return sum(self.parts.values())


def training_need(
    tensors: Iterable[torch.Tensor], config: DenoiserConfig, mode: TrainingMode
) -> TrainingNeed:
    """Return what a training needs.

    Args:
        tensors: parameters and buffers of the model, on any device; those that need a gradient are trained.
        config: the model.
        mode: how it is trained.
    """
    tensors = list(tensors)
    trained = sum(tensor.numel() for tensor in tensors if tensor.requires_grad)
    frozen = sum(tensor.numel() * tensor.element_size() for tensor in tensors if not tensor.requires_grad)
    one = mode.weights.itemsize
    moments = trained * _MOMENT_BYTES.get(mode.optimizer, 2 * one)
    parts = {
        "weights": (trained * one + frozen) / mode.shards,
        "gradients": trained * one / mode.shards,
        "optimizer": moments / mode.shards,
        "average": trained * 4 / mode.shards if mode.averaged else 0.0,
        "activations": mode.batch * kept_bytes(config, mode),
        "head": _head_bytes(config, mode, trained > frozen),
        "unpacked": config.hidden_size * config.intermediate_size * mode.product if mode.quantized else 0.0,
        "gathered": _gathered_bytes(config, mode, trained, frozen),
        "spare": _SPARE if mode.device == "cuda" else 0.0,
    }
    return TrainingNeed({name: round(value) for name, value in parts.items() if value})


def kept_bytes(config: DenoiserConfig, mode: TrainingMode) -> float:
    """Return the bytes that one image keeps for the gradient, with those of the layer that is computed again."""
    tokens = mode.grid[0] * mode.grid[1]
    cells = tokens // config.cell**2
    stream = mode.stream
    whole = _layer_bytes(config, mode, cells + mode.text)
    layers = config.num_hidden_layers + config.num_text_layers
    again = -(-layers // mode.recompute) if mode.recompute else 0
    total = (layers - again) * whole + again * (cells + mode.text) * config.hidden_size * stream
    if again:
        total += whole
    # Embedded tokens, and hidden vectors: as computed, as selected rows, and their gradient.
    product = mode.product
    outside = tokens * config.hidden_size * (stream + 2 * stream + product)
    if config.downsample:
        # The compression's norm and blocks, the expansion's likewise, and its result.
        outside += tokens * config.hidden_size * (4 + 2 * stream + product)
        outside += cells * config.hidden_size * (4 + stream + product) + tokens * config.hidden_size * product
    return total + outside


def _layer_bytes(config: DenoiserConfig, mode: TrainingMode, positions: float) -> float:
    """Return the bytes that a layer keeps for its gradient."""
    D, heads = config.hidden_size, config.num_attention_heads
    queries, keys = heads * config.head_dim, config.num_key_value_heads * config.head_dim
    stream, product = mode.stream, mode.product
    cast = product != stream
    # Two norms keep their inputs in float32 and what they normalise. Five matrices share two inputs, but autocast
    # converts an input for each matrix.
    norms: float = 2 * 4 + 2 * stream + (5 if cast else 2) * product
    per_position: float = (
        D * norms + (2 * queries + 2 * keys + 4 * config.intermediate_size) * product + 4 * heads
    )
    if mode.device == "cpu" and mode.bf16:
        per_position += heads * positions * 6  # logits of attention, which a GPU does not keep
    return positions * per_position


def _head_bytes(config: DenoiserConfig, mode: TrainingMode, trained: bool) -> float:
    """Return the bytes of the head's products: a chunk of logits, the head as products read it, its new gradient."""
    product = mode.product
    size = config.codebook_size * config.hidden_size
    chunk = _CHUNK_BYTES.get(mode.device, _CHUNK_BYTES_ELSEWHERE)
    cast = size * product if product != mode.stream and mode.shards == 1 else 0
    return chunk + cast + (size * mode.weights.itemsize if trained else 0)


def _gathered_bytes(config: DenoiserConfig, mode: TrainingMode, trained: float, frozen: float) -> float:
    """Return the bytes of weights that are whole for a while, with their gradients before they are summed."""
    if mode.shards == 1:
        return 0.0
    product = mode.product
    D = config.hidden_size
    attention = D * config.head_dim * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    layer = attention + 3 * D * config.intermediate_size
    table = max(config.codebook_size, config.vocab_size) * D
    gradients = 4 if trained > frozen else 0
    return _GATHERED * layer * (product + gradients) + 2 * table * product
