"""The `data` section of a configuration that trains on scenes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat

from smalti.common.strict import Strict
from smalti.worlds.scenes.world import Scenes


class ScenesConfig(Strict):
    """Scenes that are drawn on the fly; `Scenes` explains the settings."""

    kind: Literal["scenes"] = "scenes"
    size: int = Field(256, ge=16, le=4096, description="side of the images in pixels")
    seed: int = Field(0, description="which scenes")
    lattice: int | None = Field(None, description="cells a side of the lattice that boxes lie on, or null")
    lattice_share: float = Field(1.0, ge=0, le=1, description="share of scenes that are on the lattice")
    extra_shapes: float = Field(0.0, ge=0, le=1, description="share of shapes that are one of forty more")
    halves: float = Field(0.0, ge=0, le=1, description="share of coloured objects in two colours")
    blobs: float = Field(0.0, ge=0, le=1, description="share of scenes of several objects that show blobs")
    named: float = Field(0.0, ge=0, le=1, description="share of captions that name colours all the same")
    mix: dict[str, NonNegativeFloat] | None = Field(
        None, description="weight of each kind of scene; null means Smalti's own"
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
