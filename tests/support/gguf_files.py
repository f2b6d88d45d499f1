"""GGUF files of a model's denoiser, as a converter of image models would write them: the model's own tensor names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from smalti.model.config import MODEL_TYPE
from smalti.runtime.blocks import BLOCKS
from smalti.storage.headers import read_denoisers
from smalti.storage.mapping import read_tensor

# Where 16-bit scales are in a block. Bytes at random would make them anything, infinity included.
_SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def random_blocks(shape: tuple[int, int], kind: str, seed: int = 0, size: float = 0.01) -> np.ndarray:
    """Return (rows, bytes) uint8, blocks with any bits and small scales."""
    block, random = BLOCKS[kind], np.random.default_rng(seed)
    rows, columns = shape
    raw = random.integers(0, 256, (rows, columns // block.numbers, block.bytes), dtype=np.uint8)
    for first in _SCALES[kind]:
        scales = random.uniform(-size, size, (*raw.shape[:2], 1)).astype(np.float16)
        raw[..., first : first + 2] = scales.view(np.uint8).reshape(*raw.shape[:2], 2)
    return raw.reshape(rows, -1)


def write_gguf(
    path: Path, model: Path, kinds: Mapping[str, str], *, prefix: str = "encoder."
) -> dict[str, torch.Tensor]:
    """Write the denoiser of a model folder as GGUF.

    Args:
        path: the file.
        model: model folder with float weights.
        kinds: type of the tensors whose name ends with a key; F32 for others. Blocks of K types are random, because
            gguf cannot round to them.
        prefix: what stands in front of the names.

    Returns:
        The tensors that the file stands for, float32 by name without a prefix, as gguf itself unpacks them.
    """
    import gguf

    writer = gguf.GGUFWriter(path, MODEL_TYPE)
    expected = {}
    for number, (full, entry) in enumerate(sorted(read_denoisers(model).items())):
        name = full.removeprefix("encoder.")
        values = read_tensor(entry, "cpu", torch.float32).numpy()
        kind = next((kind for end, kind in kinds.items() if name.endswith(end)), "F32")
        type_ = getattr(gguf.GGMLQuantizationType, kind)
        if kind.endswith("_K"):
            raw = random_blocks(entry.shape, kind, number)
        else:
            raw = gguf.quants.quantize(values, type_)
        floats = gguf.quants.dequantize(raw, type_).reshape(entry.shape)
        expected[name] = torch.from_numpy(np.ascontiguousarray(floats))
        writer.add_tensor(prefix + name, raw, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected
