"""An adapter folder for a tiny model, with something to say."""

from __future__ import annotations

from pathlib import Path

import torch

from smalti.model.lora import TARGETS, AdapterShape, add_adapters, all_adapters, labelled_adapters
from smalti.storage.adapters import save_adapter
from smalti.storage.folder import load_denoiser


@torch.no_grad()
def shake(denoiser: torch.nn.Module, seed: int = 2, size: float = 0.3) -> None:
    """Give every adapter of a denoiser something to say."""
    generator = torch.Generator().manual_seed(seed)
    for adapter in all_adapters(denoiser):
        adapter.up.normal_(0, size, generator=generator)
        if adapter.magnitude is not None:
            adapter.magnitude.mul_(1 + 0.2 * torch.rand(adapter.magnitude.shape, generator=generator))


def write_adapter(
    folder: Path,
    base: Path,
    kind: str = "lora",
    targets: tuple[str, ...] = TARGETS,
    *,
    rank: int = 3,
    seed: int = 2,
    size: float = 0.3,
) -> Path:
    denoiser = load_denoiser(base)
    shape = AdapterShape(kind, rank, 2.0 * rank, targets)
    add_adapters(denoiser, shape, torch.Generator().manual_seed(seed))
    shake(denoiser, seed, size)
    save_adapter(labelled_adapters(denoiser), folder, shape, base=base)
    return folder
