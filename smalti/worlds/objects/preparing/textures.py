"""All textures of a model in one table, each in halving sizes, so that one lookup serves all samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smalti.worlds.objects.preparing.materials import Material

_LEVELS = 10


@dataclass(frozen=True, eq=False)
class Textures:
    """Images in halving sizes.

    Attributes:
        texels: (N, 4) uint8 sRGB with alpha.
        starts: (M, L) int64 first texel of a material's level.
        widths: (M, L) int64 columns of a level.
        heights: (M, L) int64 rows of a level.
        textured: (M,) bool, whether a material has a texture.
        lucent: (M,) bool, whether a material lets others through.
    """

    texels: np.ndarray
    starts: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    textured: np.ndarray
    lucent: np.ndarray


def pack_textures(materials: Sequence[Material]) -> Textures:
    """Return the textures of materials as one table. A material without a texture gets one white texel."""
    parts: list[np.ndarray] = []
    shape = (len(materials), _LEVELS)
    starts, widths, heights = (np.zeros(shape, np.int64) for _ in range(3))
    known: dict[int, int] = {}
    total = 0
    for row, material in enumerate(materials):
        first = known.setdefault(id(material.texture), row)
        if first < row:
            for table in (starts, widths, heights):
                table[row] = table[first]
            continue
        texture = material.texture if material.texture is not None else np.full((1, 1, 4), 255, np.uint8)
        for level in range(_LEVELS):
            starts[row, level], heights[row, level], widths[row, level] = total, *texture.shape[:2]
            parts.append(texture.reshape(-1, 4))
            total += len(parts[-1])
            texture = _halved(texture)
    lucent = np.array([is_lucent(material) for material in materials], bool)
    textured = np.array([material.texture is not None for material in materials], bool)
    return Textures(np.concatenate(parts), starts, widths, heights, textured, lucent)


def is_lucent(material: Material) -> bool:
    """Return whether a material lets others through somewhere."""
    texture = material.texture
    return material.opacity < 1 or (texture is not None and int(texture[..., 3].min()) < 255)


def _halved(texture: np.ndarray) -> np.ndarray:
    """Return a texture of half the rows and columns; colours count by their alpha."""
    height, width = (max(side // 2, 1) for side in texture.shape[:2])
    steps = [2 if side > 1 else 1 for side in texture.shape[:2]]
    cut = texture[: height * steps[0], : width * steps[1]].astype(np.float32)
    blocks = cut.reshape(height, steps[0], width, steps[1], 4)
    alpha = blocks[..., 3:]
    total = alpha.sum(axis=(1, 3))
    plain = blocks[..., :3].mean(axis=(1, 3))
    weighted = (blocks[..., :3] * alpha).sum(axis=(1, 3)) / np.maximum(total, 1e-6)
    colors = np.where(total > 0, weighted, plain)
    return np.concatenate([colors, alpha.mean(axis=(1, 3))], axis=2).round().astype(np.uint8)


def texture_levels(textures: Textures, material: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Return (T,) rows of the tables of `textures`, flattened: the level of its texture that suits each triangle.

    Args:
        textures: the textures.
        material: (T,) material of each triangle.
        density: (T,) area of the texture's unit square for each sample of the image; large areas take small levels.
    """
    texels = density * (textures.widths[:, 0] * textures.heights[:, 0])[material]
    level = (0.5 * np.log2(np.maximum(texels, 1))).round().clip(0, _LEVELS - 1)
    return np.asarray(level.astype(np.int64) + material * _LEVELS)


def look_up(textures: Textures, levels: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return (S, 4) float32 colours from 0 to 1.

    Args:
        textures: the textures.
        levels: (S,) row of the flattened tables for each sample.
        places: (2, S) place in the texture; textures repeat. The second number goes up.
    """
    width, height = (
        table.reshape(-1).astype(np.int32)[levels] for table in (textures.widths, textures.heights)
    )
    column, row = places[0] - np.floor(places[0]), places[1] - np.floor(places[1])
    column = np.minimum((column * width).astype(np.int32), width - 1)
    row = np.minimum(((1 - row) * height).astype(np.int32), height - 1)
    texel = textures.starts.reshape(-1)[levels] + row * width + column
    return np.take(textures.texels, texel, axis=0) * np.float32(1 / 255)
