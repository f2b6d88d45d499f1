"""The shape of an image tokenizer without a `config.json`, from the headers of its tensors."""

from __future__ import annotations

import re
from pathlib import Path

from smalti.errors import SmaltiError
from smalti.storage.entries import Entry
from smalti.storage.headers import VQ_PREFIX
from smalti.vq.config import VQConfig


def infer_vq_config(entries: dict[str, Entry], folder: Path) -> VQConfig:
    """Infer the image tokenizer's shape from its tensors, without a `config.json`; `resolution` is 256."""
    shapes = {name.removeprefix(VQ_PREFIX): entry.shape for name, entry in entries.items()}
    try:
        ch, patched, _, _ = shapes["encoder.conv_in.weight"]
        levels = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.down."))
        patch_size = round((patched / 3) ** 0.5)
        side = VQConfig.resolution // patch_size
        return VQConfig(
            ch=ch,
            ch_mult=tuple(
                shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] // ch for level in range(levels)
            ),
            num_res_blocks=sum(
                re.fullmatch(r"encoder\.down\.0\.block\.\d+\.conv1\.weight", name) is not None
                for name in shapes
            ),
            attn_resolutions=tuple(
                side // 2**level
                for level in range(levels)
                if f"encoder.down.{level}.attn.0.q.weight" in shapes
            ),
            z_channels=shapes["encoder.conv_out.weight"][0],
            embed_dim=shapes["quantize.embedding.weight"][1],
            codebook_size=shapes["quantize.embedding.weight"][0],
            patch_size=patch_size,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise SmaltiError(
            f"{folder}: the {VQ_PREFIX}* tensors are not those of an image tokenizer"
        ) from error
