"""The `data` section of a configuration that trains on scenes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat

from smalti.common.strict import Seed, Strict
from smalti.worlds.scenes.world import Scenes


class ScenesConfig(Strict):
    """Scenes that are drawn on the fly; `Scenes` explains the settings."""

    kind: Literal["scenes"] = "scenes"
    size: int = Field(256, ge=16, le=4096, description="side of the images in pixels")
    seed: Seed = Field(0, description="seed of the scenes")
    lattice: int | None = Field(None, description="lattice cells per side; null for no lattice")
    lattice_share: float = Field(1.0, ge=0, le=1, description="share of scenes on the lattice")
    extra_shapes: float = Field(0.0, ge=0, le=1, description="share of shapes drawn from forty more")
    halves: float = Field(0.0, ge=0, le=1, description="share of coloured objects in two colours")
    blobs: float = Field(0.0, ge=0, le=1, description="share of scenes with several objects that show blobs")
    named: float = Field(0.0, ge=0, le=1, description="share of other captions that name colours")
    mix: dict[str, NonNegativeFloat] | None = Field(
        None, description="weight of each kind of scene; null means the default mix"
    )

    def training(self) -> Scenes:
        """Return the scenes to train on.

        Raises:
            SmaltiError: the mix names a kind of scene that does not exist, or the lattice is no multiple of 8.
        """
        return Scenes(
            seed=self.seed,
            size=self.size,
            split="train",
            mix=self.mix,
            lattice=self.lattice,
            lattice_share=self.lattice_share,
            extra_shapes=self.extra_shapes,
            halves=self.halves,
            blobs=self.blobs,
            named=self.named,
        )

    def unseen(self) -> Scenes:
        """Return scenes for validation, which training never shows."""
        return Scenes(seed=self.seed, size=self.size, split="test")
