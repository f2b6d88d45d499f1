"""The memory that a training needs on a device: arithmetic alone, nothing is measured.

The number of bytes that a layer keeps for its gradient follows from the operations of smalti/model/backbone.py; a test
compares it with what PyTorch keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from smalti.model.config import DenoiserConfig
from smalti.ops.divergence import chunk_rows

_SHORT = (
    512  # keys up to which training on a CPU keeps all logits of attention, see smalti/model/attention.py
)
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
        keeps: whether images keep a frozen model's predictions, see smalti/objective/keeping.py.
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
    keeps: bool = False

    @property
    def stream(self) -> int:
        """Return the bytes of a number between layers."""
        return (self.base or self.weights).itemsize


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
        "converted": _converted_bytes(config, mode),
        "head": _head_bytes(config, mode, trained > frozen),
        "kept predictions": kept_prediction_bytes(config, mode) if mode.keeps else 0.0,
        "unpacked": config.hidden_size * config.intermediate_size * _product_bytes(mode) * mode.quantized,
        "gathered": _gathered_bytes(config, mode, trained, frozen),
        "spare": _SPARE if mode.device == "cuda" else 0.0,
    }
    return TrainingNeed({name: round(value) for name, value in parts.items() if value})


def kept_bytes(config: DenoiserConfig, mode: TrainingMode) -> float:
    """Return the bytes that one image's pass keeps for the gradient, and those of a layer that is computed again."""
    D, tokens = config.hidden_size, mode.grid[0] * mode.grid[1]
    cells = tokens // config.cell**2
    stream, product = mode.stream, _product_bytes(mode)
    whole = _layer_bytes(config, mode, cells + mode.text)
    layers = config.num_hidden_layers + config.num_text_layers
    again = -(-layers // mode.recompute) if mode.recompute else 0
    total = (layers - again) * whole + again * (cells + mode.text) * D * stream + (whole if again else 0)
    # The last norm keeps its input in float32 and what it normalises.
    outside = cells * D * (4 + stream)
    if config.downsample:
        # So do the norms before the compression and the expansion, each of which keeps its input, too.
        outside += (tokens + cells) * D * (4 + stream + product)
    return total + outside


def _product_bytes(mode: TrainingMode) -> int:
    return 2 if mode.bf16 else mode.stream


def _layer_matrices(config: DenoiserConfig) -> int:
    """Return the numbers in the matrices of a layer."""
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    return config.hidden_size * (config.head_dim * heads + 3 * config.intermediate_size)


def _layer_bytes(config: DenoiserConfig, mode: TrainingMode, positions: float) -> float:
    """Return the bytes that a layer keeps for its gradient."""
    D, heads = config.hidden_size, config.num_attention_heads
    queries, keys = heads * config.head_dim, config.num_key_value_heads * config.head_dim
    stream, product = mode.stream, _product_bytes(mode)
    # Two norms keep their inputs in float32 and what they normalise. Five matrices share two inputs, but autocast
    # converts an input for each matrix.
    norms: float = 2 * 4 + 2 * stream + (5 if product != stream else 2) * product
    per_position: float = D * norms + (2 * queries + 2 * keys + 4 * config.intermediate_size) * product
    per_position += 4 * heads
    few = positions <= _SHORT and queries == keys
    if mode.device == "cpu" and product == 2 and few:
        per_position += heads * positions * 6  # logits and weights, see smalti/model/attention.py
    return positions * per_position


def _converted_bytes(config: DenoiserConfig, mode: TrainingMode) -> float:
    """Return the bytes of the matrices as autocast converts them; shards are gathered in the products' dtype."""
    if _product_bytes(mode) == mode.stream or mode.shards > 1:
        return 0.0
    layers = config.num_hidden_layers + config.num_text_layers
    numbers = layers * _layer_matrices(config) + config.codebook_size * config.hidden_size
    return 2.0 * (numbers + (8 * config.hidden_size**2 if config.downsample else 0))


def _head_bytes(config: DenoiserConfig, mode: TrainingMode, trained: bool) -> float:
    """Return the bytes of the head: hidden vectors, their rows and gradient, a chunk of logits, its new gradient."""
    hidden = 3 * mode.batch * mode.grid[0] * mode.grid[1] * config.hidden_size * _product_bytes(mode)
    gradient = config.codebook_size * config.hidden_size * mode.weights.itemsize if trained else 0
    return hidden + _chunk_bytes(mode) + gradient


def kept_prediction_bytes(config: DenoiserConfig, mode: TrainingMode) -> float:
    """Return the bytes of the frozen model's predictions beyond those of the head, if a whole batch keeps them.

    The frozen model's pass keeps nothing else, and ends before the pass with gradients begins. Its hidden vectors, both
    models' rows, the gradient and a chunk of smalti/ops/divergence.py take the place of what `_head_bytes` counts.
    """
    rows, D, codes = mode.batch * mode.grid[0] * mode.grid[1], config.hidden_size, config.codebook_size
    product = _product_bytes(mode)
    at_once = min(rows, chunk_rows(codes, mode.device))
    # Four matrices of log-probabilities and probabilities are in float32, three of logits and their gradient in the
    # products' dtype: those of one chunk stay until the next one replaces them.
    chunk = at_once * codes * (4 * 4 + 3 * product)
    return 3 * rows * D * mode.stream + max(0, chunk - _chunk_bytes(mode))


def _chunk_bytes(mode: TrainingMode) -> int:
    return _CHUNK_BYTES.get(mode.device, _CHUNK_BYTES_ELSEWHERE)


def _gathered_bytes(config: DenoiserConfig, mode: TrainingMode, trained: float, frozen: float) -> float:
    """Return the bytes of weights that are whole for a while, with their gradients before they are summed."""
    if mode.shards == 1:
        return 0.0
    product = _product_bytes(mode)
    table = max(config.codebook_size, config.vocab_size) * config.hidden_size
    gradients = 4 if trained > frozen else 0
    return _GATHERED * _layer_matrices(config) * (product + gradients) + 2 * table * product
