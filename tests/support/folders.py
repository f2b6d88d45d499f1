"""A tiny model folder with random weights: everything that a pipeline needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from tiny import GOLDEN, tiny_denoiser

from smalti.storage.folder import save_denoiser, save_image_tokenizer
from smalti.vq.config import VQConfig
from smalti.vq.tokenizer import ImageTokenizer


def write_tiny_model(folder: Path, **changes: Any) -> Path:
    """64×64 pictures of 8×8 tokens, 64 codes."""
    save_denoiser(tiny_denoiser(image_size=64, mm_vqvae="vq", **changes), folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = ImageTokenizer(
            VQConfig(
                ch=8,
                ch_mult=(1, 2),
                num_res_blocks=1,
                attn_resolutions=(),
                z_channels=8,
                embed_dim=8,
                codebook_size=64,
                patch_size=4,
                norm_groups=4,
            )
        )
    save_image_tokenizer(tokenizer, folder / "vq")
    shutil.copy(GOLDEN / "tokenizer.json", folder)
    return folder
