"""What a pass of the denoiser leaves for later ones: keys and values of the prompt's positions."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class LayerMemory:
    """Keys and values of the prompt's positions in one layer.

    Attributes:
        key, value: (B, heads, P, d), P positions before and after the image's slots; None until a pass was made.
    """

    start: int
    slots: int
    key: torch.Tensor | None = None
    value: torch.Tensor | None = None

    def join(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Everything to attend to, (B, heads, L, d) each.

        Args:
            key, value: of the whole sequence in the first pass, whose prompt is remembered; of the slots alone, which
                are joined to what was remembered, in later ones.
        """
        if self.key is None or self.value is None:
            self.key, self.value = self._prompt(key), self._prompt(value)
            return key, value
        # Without a mask attention does not care in what order its keys come.
        return torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)

    def _prompt(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :, : self.start], x[:, :, self.start + self.slots :]], dim=2)


@dataclass
class PromptMemory:
    """Of all layers; empty until a pass has filled it. It fits one batch of prompts only.

    In the sequence the prompt sees the image, so what is remembered is an approximation for any other grid.
    """

    layers: list[LayerMemory] = field(default_factory=list)
