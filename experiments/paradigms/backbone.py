"""The backbone that the paradigms share: a prompt and an image in one sequence, through the layers of a `Denoiser`.

A position of the image holds a cell, 2×2 tokens. Each paradigm brings the vectors of the cells, says which positions
see which, and turns the backbone's vectors into what it predicts.
"""

from __future__ import annotations

import torch

from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch

CELL = 2  # tokens along a cell's side


def embed_text(denoiser: Denoiser, ids: torch.Tensor) -> torch.Tensor:
    """Embed the ids of prompts: (B, L) → (B, L, D)."""
    x = denoiser.embed_tokens(ids)
    return denoiser.prompt_convolution(x) if denoiser.config.prompt_convolution else x


def run_backbone(
    denoiser: Denoiser,
    image: torch.Tensor,
    prompt: PromptBatch,
    cells: tuple[int, int],
    *,
    visible: torch.Tensor | None = None,
    shift: int = 0,
) -> torch.Tensor:
    """Return the backbone's vectors of the cells: (B, S, D) → (B, S, D).

    Args:
        denoiser: its layers, text embedding, rotary positions and last norm are used.
        image: vectors of the cells, which stand in the prompts' slots.
        prompt: B prompts.
        cells: rows and columns of cells.
        visible: (B, 1, L, L) bool, the positions that each position sees; None hides padding alone.
        shift: positions before its slot at which a cell's vector is read; 1 is the position before the slot.
    """
    index = prompt.slot_start[:, None] + torch.arange(image.shape[1], device=image.device)
    text = embed_text(denoiser, prompt.ids)
    x = text.scatter(1, index[..., None].expand_as(image), image.to(text.dtype))
    if visible is None and prompt.padded:
        visible = (torch.arange(x.shape[1], device=x.device) < prompt.lengths[:, None])[:, None, None]
    tables = denoiser.rotary(x, prompt.slot_start, prompt.common_start, *cells)
    x = denoiser.run_layers(x, tables, visible=visible)
    return denoiser.norm(x.gather(1, (index - shift)[..., None].expand_as(image)))


def to_cells(grid: torch.Tensor) -> torch.Tensor:
    """Cut a grid into cells: (B, h, w, …) → (B, h/2 · w/2, 4, …), each cell in raster order."""
    B, h, w, *rest = grid.shape
    parts = grid.reshape(B, h // CELL, CELL, w // CELL, CELL, *rest).transpose(2, 3)
    return parts.reshape(B, (h // CELL) * (w // CELL), CELL * CELL, *rest)


def from_cells(cells: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Put cells together: (B, rows · columns, 4, …) → (B, 2 · rows, 2 · columns, …)."""
    B, _, _, *rest = cells.shape
    parts = cells.reshape(B, rows, columns, CELL, CELL, *rest).transpose(2, 3)
    return parts.reshape(B, rows * CELL, columns * CELL, *rest)
