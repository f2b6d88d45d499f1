"""The `data` section of a configuration that trains on scenes of objects."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, field_validator

from smalti.common.strict import Seed, Strict, Text
from smalti.worlds.objects.vocabulary import read_nouns
from smalti.worlds.objects.world import Objects


class ObjectsConfig(Strict):
    """Scenes of things from a sprite archive, composed on the fly; `Objects` explains the settings."""

    kind: Literal["objects"] = "objects"
    archive: Text = Field("objects", description="sprite archive, or the folder that `smalti prepare` wrote")
    size: int = Field(256, ge=16, le=4096, description="side of the images in pixels")
    seed: Seed = Field(0, description="seed of the scenes")
    lattice: int | None = Field(None, description="lattice cells per side; null for no lattice")
    lattice_share: float = Field(1.0, ge=0, le=1, description="share of scenes on the lattice")
    styles: dict[str, NonNegativeFloat] | None = Field(
        None, description="weight of each style; null weighs styles by their numbers of sprites"
    )
    compact: bool = Field(
        False, description="whether captions nearly decide scenes: sprites, places, grounds"
    )
    nouns: list[Text] | None = Field(
        None, min_length=1, description="the only nouns to show, or a file with one a line; null shows all"
    )
    grounds: dict[str, NonNegativeFloat] | None = Field(
        None, description="weight of each kind of ground; null means the default weights"
    )
    mix: dict[str, NonNegativeFloat] | None = Field(
        None, description="weight of each kind of scene; null means the default mix"
    )

    @field_validator("nouns", mode="before")
    @classmethod
    def _of_file(cls, nouns: Any) -> Any:
        # A checkpoint then holds the nouns themselves.
        return read_nouns(nouns) if isinstance(nouns, str) else nouns

    def training(self) -> Objects:
        """Return the scenes to train on.

        Raises:
            SmaltiError: the archive is missing or damaged, or a weight names what does not exist.
        """
        return self._scenes("train")

    def unseen(self) -> Objects:
        """Return scenes for validation: of sprites that training never shows, with the same settings."""
        return self._scenes("test")

    def _scenes(self, split: str) -> Objects:
        return Objects(
            self.archive,
            seed=self.seed,
            size=self.size,
            split=split,
            mix=self.mix,
            lattice=self.lattice,
            lattice_share=self.lattice_share,
            styles=self.styles,
            grounds=self.grounds,
            compact=self.compact,
            nouns=self.nouns,
        )
