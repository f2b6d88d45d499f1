"""Folders in the release's shape, true names and true or cut sizes, whose weights are holes: they take no disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tiny import GOLDEN

from smalti.model.config import DenoiserConfig
from smalti.model.denoiser import Denoiser
from smalti.storage.folder import NoInit
from smalti.vq.config import VQConfig
from smalti.vq.tokenizer import ImageTokenizer

# The release's config.json, as far as it matters.
CONFIG = {
    "model_type": "nemotron_labs_diffusion_image",
    "hidden_size": 4096,
    "num_hidden_layers": 34,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "attention_bias": False,
    "vocab_size": 132101,
    "downsample": True,
    "d_model_gen": 4096,
    "mm_vqvae": "emu3_vqvae",
    "dlm_paradigm": "bidirectional",
    "mask_token_id": 100,
    "eos_token_id": 11,
    "prompt_drop_rate": 0.1,
    "flip_ratio": 0.2,
    "gen_edit_loss_weight": 0.2,
    "group_ce_weight": "{16384:0.2}",
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1,
        "mscale_all_dim": 1,
        "original_max_position_embeddings": 16384,
        "llama_4_scaling_beta": 0.1,
    },
}
# The same cut to what a test can hold: all the parts, none of them wide.
CUT = {
    "hidden_size": 256,
    "d_model_gen": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 896,
    "vocab_size": 4096,
}
CUT_VQ = {"ch": 32, "num_res_blocks": 1, "z_channels": 16, "embed_dim": 16, "codebook_size": 2048}
# What is not used, in numbers of two and of four bytes: it makes up for the rest of 11.9 B parameters in 25.7 GB.
VISION_TOWER = (1_250_000_000, 480_000_000)
_BYTES = {"BF16": 2, "F32": 4, "I32": 4}

Tensors = list[tuple[str, tuple[int, ...], str]]


def write_release(
    folder: Path,
    *,
    config: dict[str, Any] | None = None,
    vq: dict[str, Any] | None = None,
    vision_tower: tuple[int, int] = VISION_TOWER,
    shard_bytes: int = 5_000_000_000,
    image_tokenizer: bool = True,
) -> Path:
    """Write a folder like the release's, all weights zero.

    Args:
        config, vq: changes to the release's configurations.
        vision_tower: numbers of parameters that are not used, in bf16 and in float32.
        shard_bytes: of a shard; one that everything fits into makes a single file.
        image_tokenizer: whether there is the image tokenizer's own folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = {**CONFIG, **(config or {})}
    vq_config = VQConfig(**(vq or {}))
    (folder / "config.json").write_text(json.dumps(values))
    shutil.copy(GOLDEN / "tokenizer.json", folder)
    with torch.device("meta"), NoInit():
        denoiser = Denoiser(DenoiserConfig.from_dict({**values, "codebook_size": vq_config.codebook_size}))
        tokenizer = ImageTokenizer(vq_config)
    tower = [
        ("encoder.vision_tower.weight", (vision_tower[0],), "BF16"),
        ("encoder.vision_tower.other.weight", (vision_tower[1],), "F32"),
    ]
    width = values["hidden_size"]
    rest: Tensors = [
        ("diffusion_head.weight", (values["vocab_size"], width), "BF16"),
        ("encoder.image_newline", (width,), "BF16"),
        ("encoder.mm_projector.0.weight", (width, width), "BF16"),
    ]
    tensors = [
        ("encoder." + name, tuple(weight.shape), "BF16") for name, weight in denoiser.state_dict().items()
    ]
    inside = [
        ("encoder.vqvae." + name, tuple(weight.shape), "F32")
        for name, weight in tokenizer.state_dict().items()
    ]
    write_shards(folder, tower + tensors + rest + inside, shard_bytes)
    if image_tokenizer:
        inner = folder / values["mm_vqvae"]
        inner.mkdir(exist_ok=True)
        (inner / "config.json").write_text(json.dumps(vq_config.to_dict()))
        names = [(name.removeprefix("encoder.vqvae."), shape, dtype) for name, shape, dtype in inside]
        write_holes(inner / "model.safetensors", names)
    return folder


def write_shards(folder: Path, tensors: Tensors, shard_bytes: int) -> None:
    """Cut tensors into files of at most so many bytes, with an index unless one is enough."""
    shards: list[Tensors] = [[]]
    size = 0
    for name, shape, dtype in tensors:
        bytes_ = torch.Size(shape).numel() * _BYTES[dtype]
        if shards[-1] and size + bytes_ > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append((name, shape, dtype))
        size += bytes_
    if len(shards) == 1:
        write_holes(folder / "model.safetensors", shards[0])
        return
    places = {}
    for number, shard in enumerate(shards, 1):
        path = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_holes(path, shard)
        places |= {name: path.name for name, _, _ in shard}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def write_holes(path: Path, tensors: Tensors) -> None:
    """A safetensors file of zeros: the header, and a hole in place of the data."""
    header, end = {}, 0
    for name, shape, dtype in tensors:
        start, end = end, end + torch.Size(shape).numel() * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
