"""A pass over some cells of a grid: the others keep their keys, values and outputs of an earlier pass.

A cell is a position of the backbone: 2×2 tokens with compression, else one token. Attention needs queries only where an
output is wanted; keys and values of the other positions may be those of an earlier pass. That is exact where all cells
are computed and the prompt is what it was, and an approximation elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class KeptLayer:
    """Keys and values of one layer for all positions.

    Attributes:
        memory: the memory that it belongs to, which knows the cells of the pass.
        key: (P, heads, L, d), or None before the first pass.
        value: values, likewise.
    """

    memory: CellMemory
    key: torch.Tensor | None = None
    value: torch.Tensor | None = None

    def join(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the keys and values of a pass; return all to attend to, (p, heads, L, d) each."""
        if self.key is None or self.value is None:
            self.key, self.value = key, value
            return key, value
        rows, positions = self.memory.rows, self.memory.positions
        self.key[rows[:, None], :, positions] = key.transpose(1, 2)
        self.value[rows[:, None], :, positions] = value.transpose(1, 2)
        if len(rows) == len(self.key):
            return self.key, self.value
        return self.key[rows], self.value[rows]


@dataclass
class CellMemory:
    """What is kept of P prompts with their grids between passes; empty before the first pass, which computes all.

    Attributes:
        layers: keys and values, layer by layer.
        output: (P, h·w, D), the denoiser's result.
        text: the encoded prompt, (P, K, D), under cross-attention.
        rows: (p,) int64, the prompts of the next pass, in rising order.
        cells: (p, N) int64, the cells that it computes.
        positions: (p, N) int64, their indices in the sequence.
    """

    layers: list[KeptLayer] = field(default_factory=list)
    output: torch.Tensor | None = None
    text: torch.Tensor | None = None
    rows: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    cells: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    positions: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))

    def choose(self, rows: torch.Tensor, cells: torch.Tensor) -> None:
        """Set the prompts, (p,) int64, and the cells, (p, N) int64, of the next pass."""
        self.rows, self.cells = rows, cells

    def begin(self, layers: int) -> None:
        """Make room for the keys and values of so many layers."""
        self.layers = [KeptLayer(self) for _ in range(layers)]


def tokens_of(cells: torch.Tensor, columns: int, width: int, cell: int) -> torch.Tensor:
    """Return the indices of the cells' tokens, (p, cell, N·cell) int64, as a grid of the cells beside each other."""
    first = torch.div(cells, columns, rounding_mode="floor") * (cell * width) + cells % columns * cell
    inside = torch.arange(cell, device=cells.device)
    offsets = inside[:, None] * width + inside
    return (first[:, None, :, None] + offsets[:, None, :]).flatten(2)
