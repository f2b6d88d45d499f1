"""Keys and values of the prompt's positions, kept from one pass of the denoiser for later ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class LayerMemory:
    """Keys and values of the prompt's positions in one layer.

    Attributes:
        start: index of the first slot.
        slots: number of slots.
        key: (B, heads, P, d), keys of the P positions before and after the image's slots; None before the first pass.
        value: values, likewise.
    """

    start: int
    slots: int
    key: torch.Tensor | None = None
    value: torch.Tensor | None = None

    def join(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all keys and values to attend to, (B, heads, L, d) each.

        The first pass gives those of the whole sequence, and its prompt is remembered. Later passes give those of the
        slots alone, which are joined to the remembered ones.
        """
        if self.key is None or self.value is None:
            self.key, self.value = self._prompt(key), self._prompt(value)
            return key, value
        # Attention without a mask does not depend on the order of its keys.
        return torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)

    def _prompt(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :, : self.start], x[:, :, self.start + self.slots :]], dim=2)


@dataclass
class PromptMemory:
    """Remembered keys and values of all layers, for one batch of prompts; empty before the first pass.

    In the sequence the prompt attends to the image, so the memory is an approximation for any other grid.
    """

    layers: list[LayerMemory] = field(default_factory=list)
