"""The memory that a model needs on a device in each loading mode: arithmetic alone, nothing is measured.

Counts are numbers of parameters, results are bytes. GB are 10⁹ bytes, GiB 2³⁰.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from smalti.common.checks import quoted
from smalti.errors import SmaltiError

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
INT4_GROUP = 64  # numbers of a row that share a scale and a zero point
# Size in bytes from which a text embedding stays in its file.
MAPPED_BYTES = 2**26

_TEXT_POSITIONS = 256  # the reference model's template and a prompt of a hundred words
_SLOTS = 2  # streamed layers on the device at a time: one computes, one is being copied
_PINNED = 1.15  # factor of pinned memory, which a GPU's driver rounds up to powers of two
# Chunks of smalti/ops/sample.py and sample_torch.py on a GPU.
_HEAD_LOGITS, _HEAD_ROWS, _HEAD_SWEPT = 2**26, 256, 2**25
# Size of the largest map above which smalti/vq/tokenizer.py decodes in bands, and sizes of the bands and of the inner
# map that smalti/vq/banded.py then holds beside it.
_WHOLE_MAP, _BAND, _KEPT = 2**28, 2**24, 2**28
_BANDS = 6
_MOST_UNITS = 1e12  # a size beyond all memory
_SPARE = 300_000_000  # workspaces of libraries, rounding of the allocator


@dataclass(frozen=True)
class ModelSize:
    """The sizes that memory depends on.

    Attributes:
        layers: parameters of all layers.
        layer_count: number of layers.
        streamable: parameters of the layers that `offload` can stream.
        text_embedding: parameters of the text embedding.
        image_embedding: parameters of the image-token embedding.
        head: parameters of the head.
        compression: parameters of the 2×2 compression and the final norm.
        image_tokenizer: parameters of the image tokenizer.
        largest_map: bytes a pixel of the image tokenizer's largest float32 feature map.
        hidden_size: width of hidden vectors.
        intermediate_size: width of the feed-forward.
        vocabulary: number of image codes.
        downscale: pixels along a token's side.
        cell: tokens along a backbone position's side.
        image_size: side of an image, in pixels.
        stored: how the folder stores the layers' matrices in fewer bits, or None for floats.
        stored_bytes: bytes a number of each part that the folder stores in fewer bits and that stays so in memory.
    """

    layers: int
    layer_count: int
    streamable: int
    text_embedding: int
    image_embedding: int
    head: int
    compression: int
    image_tokenizer: int
    largest_map: float
    hidden_size: int
    intermediate_size: int
    vocabulary: int
    downscale: int
    cell: int
    image_size: int
    stored: str | None = None
    stored_bytes: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> ModelSize:
        """Return the sizes of a model with an image tokenizer, from a report of `smalti.storage.inspection.inspect`."""
        config, parts = report["config"], dict(report["parameters"])
        vq = report["image_tokenizer"]["config"]
        total = parts["total"]
        named = [parts[name] for name in ("embed_tokens", "gen_embedding", "gen_predictor")]
        layers = parts["layers"] + parts.get("text_layers", 0)
        widths = [vq["ch"] * mult for mult in vq["ch_mult"]]
        # What comes up from the level below has that level's channels until the first block changes their number.
        stored = report.get("quantized", {"layers": None, "bytes": {}})
        widest = [max(pair) for pair in zip(widths, widths[1:] + widths[-1:], strict=True)]
        return cls(
            layers=layers,
            layer_count=config["num_hidden_layers"],
            streamable=parts["layers"],
            text_embedding=named[0],
            image_embedding=named[1],
            head=named[2],
            compression=total - layers - sum(named),
            image_tokenizer=report["image_tokenizer"]["parameters"]["total"],
            largest_map=max(4 * width / 4**level for level, width in enumerate(widest))
            / vq["patch_size"] ** 2,
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            vocabulary=config["codebook_size"],
            downscale=vq["patch_size"] * 2 ** (len(widths) - 1),
            cell=2 if config["downsample"] else 1,
            image_size=config["image_size"],
            stored=stored["layers"],
            stored_bytes={part: count / parts[part] for part, count in stored["bytes"].items()},
        )


@dataclass(frozen=True)
class Mode:
    """A loading mode of a model.

    Attributes:
        dtype: dtype of the denoiser: "float32", "bfloat16" or "float16".
        quantize: storage of the layers' matrices: "int8", "int4" or "fp8", None, or "gguf" for blocks of a GGUF file.
        offload: "layers" to stream the layers from the host's memory, or None.
        mapped: embeddings that stay in their file, as in `smalti.storage.folder.load_denoiser`.
        guidance_batched: whether guidance computes both of its passes at once.
        image_tokenizer_dtype: dtype of the image tokenizer.
        image_tokenizer_on_cpu: whether images are decoded on the CPU, wherever the denoiser is.
        compiled: whether the layers are compiled, and recorded as CUDA graphs, which keep their memory.
        rounds_activations: whether products of quantized layers run in 8 bits.
        pixel_bytes: bytes that decoding images may take beside the weights, or None for all that is free.
    """

    dtype: str = "bfloat16"
    quantize: str | None = None
    offload: str | None = None
    mapped: tuple[str, ...] = ()
    guidance_batched: bool = True
    image_tokenizer_dtype: str = "float32"
    image_tokenizer_on_cpu: bool = False
    compiled: bool = False
    rounds_activations: bool = False
    pixel_bytes: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        parts = [f"{self.quantize} layers in {self.dtype} arithmetic" if self.quantize else self.dtype]
        if self.rounds_activations:
            parts.append("activations rounded to 8 bits")
        if self.offload:
            parts.append("layers streamed from host memory")
        if "gen_embedding" in self.mapped:
            parts.append("embeddings in their file")
        elif self.mapped:
            parts.append("text embedding in its file")
        if not self.guidance_batched:
            parts.append("guidance in two passes")
        if self.image_tokenizer_on_cpu:
            parts.append("image tokenizer on the CPU")
        elif self.image_tokenizer_dtype != "float32":
            parts.append(f"image tokenizer in {self.image_tokenizer_dtype}")
        if self.compiled:
            parts.append("compiled")
        return ", ".join(parts)


@dataclass(frozen=True)
class Need:
    """The bytes that a mode needs, computed.

    Attributes:
        weights: bytes of the weights on the device, by part.
        working: largest number of bytes that a pass, the head or the decoder takes beside the weights.
        host: bytes of the weights that stay in the host's memory.
        total: bytes on the device.
    """

    weights: dict[str, int]
    working: int
    host: int

    @property
    def total(self) -> int:
        return sum(self.weights.values()) + self.working


def matrix_bytes(quantize: str | None, dtype: str) -> float:
    """Return bytes a number of a layer's matrix, without the scales of int8 and fp8, which are one a row."""
    if quantize is None:
        return BYTES[dtype]
    return 0.5 + (BYTES[dtype] + 1) / INT4_GROUP if quantize == "int4" else 1.0


def mapped_by_default(text_embedding: int, dtype: str) -> tuple[str, ...]:
    """Return the embeddings that stay in their file in any mode: a large text embedding, of which few rows are read."""
    return ("embed_tokens",) if text_embedding * BYTES[dtype] >= MAPPED_BYTES else ()


def need(size: ModelSize, mode: Mode, *, height: int | None = None, width: int | None = None) -> Need:
    """Return what one image with guidance needs; height and width in pixels, the model's own if None."""
    one = BYTES[mode.dtype]
    stored = size.stored_bytes
    matrix = stored["layers"] if "layers" in stored else matrix_bytes(mode.quantize, mode.dtype)
    resident: float = size.layers
    host = 0.0
    if mode.offload:
        in_slots = size.streamable * min(_SLOTS, size.layer_count) / size.layer_count
        resident = size.layers - size.streamable + in_slots
        host = size.streamable * matrix * _PINNED
    if mode.image_tokenizer_on_cpu:
        host += size.image_tokenizer * BYTES[mode.image_tokenizer_dtype]
    weights = {
        "layers": resident * matrix,
        "text embedding": 0
        if "embed_tokens" in mode.mapped
        else size.text_embedding * stored.get("embed_tokens", one),
        "image embedding": 0
        if "gen_embedding" in mode.mapped
        else size.image_embedding * stored.get("gen_embedding", one),
        "head": size.head * one,
        "compression": size.compression * one,
        "image tokenizer": 0
        if mode.image_tokenizer_on_cpu
        else size.image_tokenizer * BYTES[mode.image_tokenizer_dtype],
    }
    stages = working_bytes(size, mode, height or size.image_size, width or size.image_size)
    working = max(
        value for name, value in stages.items() if name != "pixels" or not mode.image_tokenizer_on_cpu
    )
    if mode.compiled and not mode.offload:
        working += stages["pass"]
    return Need({name: round(value) for name, value in weights.items()}, working + _SPARE, round(host))


def pixel_room(size: ModelSize, mode: Mode, budget: int) -> int | None:
    """Return the bytes that decoding may take beside the weights within a budget, or None if it is on the CPU."""
    if mode.image_tokenizer_on_cpu:
        return None
    return max(0, budget - sum(need(size, mode).weights.values()) - _SPARE)


def working_bytes(size: ModelSize, mode: Mode, height: int, width: int) -> dict[str, int]:
    """Return the most bytes that each stage of one image with guidance holds beside the weights."""
    one, D = BYTES[mode.dtype], size.hidden_size
    tokens = height * width // size.downscale**2
    sequences = 2 if mode.guidance_batched else 1
    positions = sequences * (tokens // size.cell**2 + _TEXT_POSITIONS)
    # A layer holds the first layer's input, its own input, the sum so far and its norm, and two vectors of the
    # feed-forward.
    layer = positions * one * (4 * D + 2 * size.intermediate_size)
    if mode.quantize:
        # The matrix in use is unpacked.
        layer += D * size.intermediate_size * (one + 1)
    # The image's embedding and its normalisation, which works in float32.
    embedded = sequences * tokens * D * (one + 4 + 4) if size.cell > 1 else 0
    # Hidden vectors of both passes three times: as computed, as collected, and as selected rows.
    hidden = 2 * 3 * tokens * D * one
    rows = min(tokens, max(_HEAD_ROWS, _HEAD_LOGITS // size.vocabulary))
    swept = min(rows * size.vocabulary, _HEAD_SWEPT)
    head = hidden + rows * size.vocabulary * one + 2 * 4 * swept
    # There are five small maps at a time, a convolution's workspace included. Of large maps there is one, a quarter of
    # the next, and bands of the rest.
    largest = height * width * size.largest_map
    pixels = 5 * largest if largest <= _WHOLE_MAP else 1.25 * largest + _BANDS * _BAND + _KEPT
    # With two passes the first one's result is kept during the second.
    first = 0 if mode.guidance_batched else tokens * D * one
    return {
        "pass": round(max(layer, embedded) + first),
        "head": round(head),
        "pixels": round(pixels),
    }


def parse_memory(text: object) -> int:
    """Return bytes from text such as "8GB", "7.5 GiB" or "900MB".

    Raises:
        SmaltiError: the text is not such a size.
    """
    units = {"MB": 1e6, "GB": 1e9, "MIB": 2**20, "GIB": 2**30}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text) if isinstance(text, str) else None
    if match is None or match[2].upper() not in units or not 0 < float(match[1]) < _MOST_UNITS:
        raise SmaltiError(f"memory must be a size such as 8GB, 7.5GiB or 900MB, not {quoted(text)}")
    return int(float(match[1]) * units[match[2].upper()])


def gigabytes(count: float) -> str:
    """Return a number of bytes as text, in GB or MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
