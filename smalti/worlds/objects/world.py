"""Captioned scenes by index: sprites of real things on grounds, at any resolution.

A scene starts as GenEval metadata, which describes what the image must show. The metadata decides the sprites, their
places and the caption.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import torch

from smalti.common.checks import check_real
from smalti.worlds.arguments import check_index, check_weights, check_world, sides
from smalti.worlds.objects.archive import SpriteArchive, fingerprint
from smalti.worlds.objects.collection import Collection as SpriteCollection
from smalti.worlds.objects.composing import Composer
from smalti.worlds.objects.grounds import GROUNDS
from smalti.worlds.objects.sampling import sample_metadata
from smalti.worlds.objects.scene import Scene, render
from smalti.worlds.tasks import TRAINING_MIX


class Objects:
    """Endless captioned scenes by index. Scene i depends on the archive, the seed, the split and the settings.

    It does not depend on the size.

    Args:
        archive: a sprite archive, its path, or the folder that holds it.
        seed: any whole number; other seeds give other scenes.
        size: side in pixels, or (height, width).
        split: "train" never shows a held-out drawing, nor a held-out pair of noun and colour or of nouns. "test" shows
            the held-out sprites alone. `smalti.worlds.objects.splits` says what is held out.
        mix: weight of each tag; None means `TRAINING_MIX`.
        lattice: None lets things have any size and place, turned a little or mirrored. A number L, a multiple of 8,
            makes scenes that are easier to learn. Boxes are half as wide as the image, and their left and upper edges
            are multiples of 1/L. Things are never turned, and textures always have the same place.
        lattice_share: probability that a scene is on the lattice.
        styles: weight of each style of sprites; None weighs styles by their numbers of sprites.
        grounds: weight of each kind of ground; None means `GROUNDS`.
        compact: whether captions nearly determine scenes, so that a small model learns them sooner. There is one
            sprite of each scored noun and one of each of its colours, from the style with the most weight. Boxes are
            half as wide as the image. Their number, their relation and their order in the caption decide their
            places. Grounds that the caption does not name are plain, in one of five colours.
        nouns: the only nouns to show; None shows all.

    Attributes:
        length: None, because the scenes never end.

    Raises:
        SmaltiError: an argument is out of its range, or the archive is missing or damaged.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from smalti.worlds.objects.archive import Sprite, write_archive
        >>> red = np.zeros((128, 128, 4), np.uint8)
        >>> red[20:108, 20:108] = 200, 30, 30, 255
        >>> sprites = [(Sprite(f"flat/box{number}", "box", "box", "flat"), red) for number in range(4)]
        >>> write_archive(f"{tempfile.gettempdir()}/sprites.zip", sprites)
        >>> sample = Objects(tempfile.gettempdir(), size=64, mix={"single_object": 1})[5]
        >>> tuple(sample["image"].shape), "box" in sample["caption"]
        ((3, 64, 64), True)
    """

    length: ClassVar[int | None] = None

    def __init__(
        self,
        archive: SpriteArchive | str | Path,
        seed: int = 0,
        size: int | tuple[int, int] = 256,
        split: str = "train",
        mix: Mapping[str, float] | None = None,
        lattice: int | None = None,
        lattice_share: float = 1.0,
        styles: Mapping[str, float] | None = None,
        grounds: Mapping[str, float] | None = None,
        compact: bool = False,
        nouns: Collection[str] | None = None,
    ) -> None:
        check_world(split, seed, lattice)
        mix = TRAINING_MIX if mix is None else mix
        grounds = GROUNDS if grounds is None else grounds
        check_weights("mix", mix, TRAINING_MIX)
        check_weights("grounds", grounds, GROUNDS)
        check_real("lattice_share", lattice_share, 0, 1)
        self.size = sides(size)
        if not isinstance(archive, SpriteArchive):
            archive = SpriteArchive(archive)
        self.archive = archive
        self.seed = seed
        self.split = split
        self.lattice = lattice
        self.lattice_share = lattice_share
        self.composer = Composer.of(SpriteCollection(archive, split, styles, compact, nouns), grounds)
        self._tags = list(mix)
        self._weights = list(mix.values())

    def fingerprint(self) -> str:
        """Return a short hash of the archive."""
        return fingerprint(self.archive)

    def scene(self, index: int) -> Scene:
        """Return scene number `index` (0 or more) without drawing it."""
        index = check_index(index)
        random = Random(f"smalti objects {self.seed} {self.split} {index}")
        tag = random.choices(self._tags, self._weights)[0]
        composer = self.composer
        metadata, styles = sample_metadata(tag, random, composer.collection, composer.likeness, self.split)
        on_lattice = self.lattice is not None and random.random() < self.lattice_share
        return composer.compose(metadata, random, styles, self.lattice if on_lattice else None)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return `{"image": uint8 (3, H, W) tensor, "caption": str}`."""
        scene = self.scene(index)
        pixels = torch.tensor(render(scene, self.composer.pictures, self.size))
        return {"image": pixels.permute(2, 0, 1).contiguous(), "caption": scene.caption}
