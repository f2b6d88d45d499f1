"""Images of three-dimensional models: a camera around the model, soft light, textures on surfaces, smooth edges.

The camera stands slightly above the model and turns around it. Sixteen samples a pixel give smooth edges, and glass,
which covers only some of the sixteen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from smalti.common.checks import check_real
from smalti.errors import SmaltiError
from smalti.worlds.objects.preparing.materials import Material
from smalti.worlds.objects.preparing.meshes import Mesh
from smalti.worlds.objects.preparing.polygons import unit
from smalti.worlds.objects.preparing.rasterizing import Samples, interpolate, rasterize
from smalti.worlds.objects.preparing.textures import Textures, look_up, pack_textures, texture_levels

PIXELS = 128
"""Side of a rendered image in pixels."""

_SIDE = 4  # samples of a pixel in a row
_MARGIN = 3  # pixels
_DISTANCE = 4.0  # of the camera, in radii of the model
_KEY, _FILL = (-0.45, 0.75, 0.5), (0.7, 0.1, 0.6)  # towards the lights, as the camera sees them
_AMBIENT, _KEY_LIGHT, _FILL_LIGHT, _SKY_LIGHT = 0.6, 0.48, 0.22, 0.05
_LEAST_OPACITY, _INVISIBLE = 0.5, 0.02
_GAIN = 1.25  # of colours without a texture
# In what order the samples of a pixel are covered.
_ORDER = np.array([0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5], np.float32)


@dataclass(frozen=True, eq=False)
class Model:
    """A mesh with what all its images share: `prepare_model` makes it.

    Attributes:
        mesh: the triangles.
        values: (3, 3, T) float32 normals of the corners, or (5, 3, T) with their places in the texture.
        textures: the textures of its materials.
        facing: (3, T) float32 unit normals of the triangles, on the side of their corners' normals.
        spread: (T,) float32 area of each triangle in its texture.
        center: (3,) middle of the model.
        radius: distance from the middle to the farthest corner.
        elevation: height of the camera in degrees.
    """

    mesh: Mesh
    values: np.ndarray
    textures: Textures
    facing: np.ndarray
    spread: np.ndarray
    center: np.ndarray
    radius: float
    elevation: float


@dataclass(frozen=True, eq=False)
class View:
    """What the camera sees from one side, before colours and light.

    Attributes:
        index: (S,) int64 places of the covered samples in the image, row by row.
        material: (S,) material of each sample.
        texture: (S, 3) float32 colour of the material's texture.
        light: (S,) float32 strength of the light.
        highlight: (S,) float32 strength of the reflected light.
    """

    index: np.ndarray
    material: np.ndarray
    texture: np.ndarray
    light: np.ndarray
    highlight: np.ndarray


@dataclass(frozen=True)
class Tint:
    """A colour for a material.

    Attributes:
        color: sRGB, three numbers from 0 to 1.
        contrast: how much of the contrast of light and pattern stays, from 0 to 1.
    """

    color: tuple[float, float, float]
    contrast: float = 1.0


def prepare_model(mesh: Mesh) -> Model:
    """Return a model that is ready to be rendered from all sides.

    Raises:
        SmaltiError: the mesh has no area.
    """
    points = mesh.positions[mesh.triangles].astype(np.float64)
    normals = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    solid = np.flatnonzero(np.linalg.norm(normals, axis=1) > 0)
    if not len(solid):
        raise SmaltiError("the model must have triangles with an area, and it has none")
    used, triangles = np.unique(mesh.triangles[solid], return_inverse=True)
    mesh = Mesh(
        mesh.positions[used],
        triangles.reshape(-1, 3).astype(np.int32),
        mesh.normals[solid],
        mesh.coordinates[solid],
        mesh.material[solid],
        mesh.materials,
    )
    points, facing = points[solid], unit(normals[solid])
    outward = np.where((mesh.normals.sum(axis=1) * facing).sum(axis=1) < 0, -1, 1)
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    center = (low + high) / 2
    textures = pack_textures(mesh.materials)
    parts = [mesh.normals, mesh.coordinates] if textures.textured.any() else [mesh.normals]
    a, b, c = (mesh.coordinates[:, corner] for corner in range(3))
    spread = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    return Model(
        mesh,
        np.ascontiguousarray(np.concatenate(parts, axis=2).transpose(2, 1, 0)),
        textures,
        np.ascontiguousarray((facing * outward[:, None]).T.astype(np.float32)),
        spread,
        center,
        float(np.linalg.norm(points - center, axis=2).max()),
        _elevation(high - low),
    )


def _elevation(extent: np.ndarray) -> float:
    """Return the height of the camera in degrees: 18 for most models, up to 50 for those that lie flat."""
    flatness = float(extent[1]) / max(math.sqrt(float(extent[0]) * float(extent[2])), 1e-12)
    return 18 + 32 * min(max((0.3 - flatness) / 0.25, 0.0), 1.0)


def look(model: Model, azimuth: float) -> View:
    """Return what the camera sees.

    Args:
        model: the model.
        azimuth: degrees by which the camera goes around the model, counter-clockwise seen from above; 0 is its front.
    """
    turn = _rotation(check_real("azimuth", azimuth, -360, 360), model.elevation)
    points = _projected(model, turn)
    mesh, size = model.mesh, PIXELS * _SIDE

    def keep(samples: Samples) -> np.ndarray:
        """Return whether transparent triangles cover samples: as many of a pixel's samples as their opacity says."""
        angle = _facing(model, turn)
        opacity = np.array([_visible_opacity(entry) for entry in mesh.materials], np.float32)[mesh.material]
        # Glass shines at its edges.
        opacity += np.where(opacity < 1, (1 - opacity) * 0.6 * (1 - np.abs(angle)) ** 3, 0)
        opacity = opacity[samples.triangle]
        if model.textures.textured.any():
            places = interpolate(points, model.values[3:], samples, size)
            opacity *= _texels(model, points, samples, places)[:, 3]
        # Each surface has its own order, so that two layers of glass cover more than one.
        shift = (5 * mesh.material + 8 * (angle < 0))[samples.triangle]
        rank = _ORDER[(samples.index // size % _SIDE * _SIDE + samples.index % _SIDE + shift) % _SIDE**2]
        return np.asarray(rank + 0.5 < opacity * _SIDE**2)

    samples = rasterize(points, size, model.textures.lucent[mesh.material], keep)
    values = interpolate(points, model.values, samples, size)
    normals = turn.astype(np.float32) @ values[:3]
    sides = np.where(_facing(model, turn) < 0, np.float32(-1), np.float32(1))[samples.triangle]
    normals *= sides / np.sqrt(np.maximum((normals**2).sum(axis=0), np.float32(1e-12)))
    material = mesh.material[samples.triangle]
    texture = _texels(model, points, samples, values[3:])
    return View(samples.index, material, texture[:, :3], *_lit(normals))


def _visible_opacity(material: Material) -> float:
    """Return an opacity of at least a half, or glass would be lost on most backgrounds; what is invisible stays so."""
    if material.opacity < _INVISIBLE:
        return 0.0
    return _LEAST_OPACITY + (1 - _LEAST_OPACITY) * material.opacity


def _facing(model: Model, turn: np.ndarray) -> np.ndarray:
    """Return (T,) cosines between triangles' normals and the way to the camera; negative ones show their backs."""
    eye = turn[2] * (_DISTANCE * model.radius) + model.center
    corners = model.mesh.positions[model.mesh.triangles[:, 0]].T
    towards = eye[:, None].astype(np.float32) - corners
    return np.asarray((towards * model.facing).sum(axis=0) / np.sqrt((towards**2).sum(axis=0)))


def _texels(model: Model, points: np.ndarray, samples: Samples, places: np.ndarray) -> np.ndarray:
    """Return (S, 4) colours of the textures at samples with (2, S) places in them."""
    if not model.textures.textured.any():
        return np.ones((len(samples.index), 4), np.float32)
    (ax, ay), (bx, by) = (points[:2, at] - points[:2, 0] for at in (1, 2))
    density = model.spread / np.maximum(np.abs(ax * by - ay * bx), 1e-9)
    levels = texture_levels(model.textures, model.mesh.material, density)
    return look_up(model.textures, levels[samples.triangle], places)


def _rotation(azimuth: float, elevation: float) -> np.ndarray:
    """Return the (3, 3) rotation from the model's axes to the camera's: right, up, and towards the camera."""
    a, e = math.radians(azimuth), math.radians(elevation)
    around = np.array([[math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]])
    tilt = np.array([[1, 0, 0], [0, math.cos(e), -math.sin(e)], [0, math.sin(e), math.cos(e)]])
    return tilt @ around


def _projected(model: Model, turn: np.ndarray) -> np.ndarray:
    """Return (3, 3, T) columns, rows and nearness of the triangles' corners; the model fills the image."""
    seen = turn @ (model.mesh.positions - model.center).T / model.radius
    near = 1 / (_DISTANCE - seen[2])
    flat = np.stack([seen[0] * near, -seen[1] * near])
    low, high = flat.min(axis=1), flat.max(axis=1)
    size = PIXELS * _SIDE
    scale = (size - 2 * _MARGIN * _SIDE) / max(float((high - low).max()), 1e-12)
    placed = (flat - ((low + high) / 2)[:, None]) * scale + size / 2
    corners = np.concatenate([placed, near[None]]).astype(np.float32)
    return np.take(corners, model.mesh.triangles.T, axis=1)


def _lit(normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the strength of the light and of its reflection for (3, S) normals, as the camera sees them."""
    key, fill = (unit(np.array(light)).astype(np.float32) for light in (_KEY, _FILL))
    half = unit(key + np.array([0, 0, 1], np.float32)).astype(np.float32)
    light = np.float32(_AMBIENT) + np.float32(_SKY_LIGHT) * normals[1]
    light += np.float32(_KEY_LIGHT) * np.maximum(key @ normals, 0)
    light += np.float32(_FILL_LIGHT) * np.maximum(fill @ normals, 0)
    highlight = np.maximum(half @ normals, 0)
    for _ in range(5):  # to the power of 32
        highlight *= highlight
    return light, highlight


def paint(model: Model, view: View, tints: Mapping[int, Tint] | None = None) -> np.ndarray:
    """Return an image as (128, 128, 4) uint8 sRGB with alpha.

    Args:
        model: the model.
        view: what the camera sees of it.
        tints: colours that replace those of materials; light and patterns stay.
    """
    materials = model.mesh.materials
    diffuse = np.array([_base(material) for material in materials], np.float32)
    emission = np.array([material.emission for material in materials], np.float32)
    shine = np.array([material.shine for material in materials], np.float32) * 0.3
    colors = diffuse[view.material] * view.texture
    light = view.light
    if tints:
        light = light.copy()
    for row, tint in (tints or {}).items():
        rows = np.flatnonzero(view.material == row)
        emission[row] = 0
        light[rows] = 1 + tint.contrast * (light[rows] - 1)
        colors[rows] = _tinted(colors[rows], tint)
    colors *= light[:, None]
    if emission.any():
        colors += emission[view.material]
    if shine.any():
        colors += (shine[view.material] * view.highlight)[:, None]
    return _averaged(colors.clip(0, 1), view.index)


def _base(material: Material) -> tuple[float, float, float]:
    """Return the colour that multiplies a material's texture: white where there is one, since it has the colours.

    Other colours are a quarter brighter, as far as none of the three numbers exceeds 1: modellers leave white at 0.8.
    """
    if material.texture is not None:
        return 1.0, 1.0, 1.0
    red, green, blue = material.diffuse
    gain = min(_GAIN, 1 / max(red, green, blue, 1e-6))
    return red * gain, green * gain, blue * gain


def _tinted(colors: np.ndarray, tint: Tint) -> np.ndarray:
    """Return colours of one hue; they are darker where the old ones were darker than their mean."""
    brightness = colors @ np.array([0.299, 0.587, 0.114], np.float32)
    relative = (brightness + 0.1) / (float(brightness.mean() if len(colors) else 0) + 0.1)
    shade = 1 + tint.contrast * (relative.clip(0.5, 1.4) - 1)
    return np.asarray(np.array(tint.color, np.float32) * shade[:, None])


def _averaged(colors: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the mean colour of each pixel's samples, and as alpha the share of samples that are covered."""
    size = PIXELS * _SIDE
    pixel = index // size // _SIDE * PIXELS + index % size // _SIDE
    counts = np.bincount(pixel, minlength=PIXELS**2)
    image = np.zeros((PIXELS**2, 4))
    for channel in range(3):
        total = np.bincount(pixel, colors[:, channel], minlength=PIXELS**2)
        image[:, channel] = total / np.maximum(counts, 1)
    image[:, 3] = counts / _SIDE**2
    return (image * 255).round().astype(np.uint8).reshape(PIXELS, PIXELS, 4)
