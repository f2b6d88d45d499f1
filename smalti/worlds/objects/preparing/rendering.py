"""Pictures of three-dimensional models: a camera around the model, soft light, images on surfaces, smooth edges.

The camera stands slightly above the model and turns around it. Sixteen samples a pixel give smooth edges and glass:
a surface of opacity 0.25 covers four of the sixteen.
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
from smalti.worlds.objects.preparing.textures import Textures, look_up, pack_textures

PIXELS = 128
"""Side of a rendered picture in pixels."""

_SIDE = 4  # samples of a pixel in a row
_MARGIN = 3  # pixels
_DISTANCE = 4.0  # of the camera, in radii of the model
_KEY, _FILL = (-0.45, 0.75, 0.5), (0.7, 0.1, 0.6)  # towards the lights, as the camera sees them
_AMBIENT, _KEY_LIGHT, _FILL_LIGHT, _SKY_LIGHT = 0.6, 0.48, 0.22, 0.05
# In what order the samples of a pixel are covered.
_ORDER = np.array([0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5])


@dataclass(frozen=True, eq=False)
class Model:
    """A mesh with what all its pictures share: `prepare_model` makes it.

    Attributes:
        mesh: the triangles.
        values: (T, 3, 5) float32 normals of the corners, then their places in the image.
        textures: the images of its materials.
        facing: (T, 3) float32 unit normals of the triangles, on the side of their corners' normals.
        spread: (T,) float64 area of each triangle in its image.
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
        index: (S,) int64 places of the covered samples in the picture, row by row.
        material: (S,) material of each sample.
        texture: (S, 3) float32 colour of the material's image.
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
    mesh = Mesh(
        mesh.positions,
        mesh.triangles[solid],
        mesh.normals[solid],
        mesh.coordinates[solid],
        mesh.material[solid],
        mesh.materials,
    )
    points, facing = points[solid], unit(normals[solid])
    outward = np.where((mesh.normals.sum(axis=1) * facing).sum(axis=1) < 0, -1, 1)
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    a, b, c = (mesh.coordinates[:, corner].astype(np.float64) for corner in range(3))
    spread = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
    center = (low + high) / 2
    radius = float(np.linalg.norm(points - center, axis=2).max())
    return Model(
        mesh,
        np.concatenate([mesh.normals, mesh.coordinates], axis=2),
        pack_textures(mesh.materials),
        (facing * outward[:, None]).astype(np.float32),
        spread,
        center,
        radius,
        _elevation(high - low),
    )


def _elevation(extent: np.ndarray) -> float:
    """Return the height of the camera in degrees: 18 for most models, up to 50 for those that lie flat."""
    flatness = float(extent[1]) / max(float(extent[0]), float(extent[2]), 1e-12)
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
    eye = turn[2] * (_DISTANCE * model.radius) + model.center
    towards = unit(eye - mesh.positions[mesh.triangles[:, 0]])
    facing = (towards * model.facing).sum(axis=1)
    edge_a, edge_b = points[:, 1, :2] - points[:, 0, :2], points[:, 2, :2] - points[:, 0, :2]
    area = np.abs(edge_a[:, 0] * edge_b[:, 1] - edge_a[:, 1] * edge_b[:, 0])
    density = model.spread / np.maximum(area, 1e-9)

    def keep(samples: Samples) -> np.ndarray:
        """Return whether transparent triangles cover samples: as many of a pixel's samples as their opacity says."""
        material, angle = mesh.material[samples.triangle], facing[samples.triangle]
        opacity = np.array([entry.opacity for entry in mesh.materials], np.float32)[material]
        # Glass shines at its edges, or it would be lost on most backgrounds.
        opacity += np.where(opacity < 1, (1 - opacity) * 0.6 * (1 - np.abs(angle)) ** 3, 0)
        if model.textures.textured.any():
            places = interpolate(points, mesh.coordinates, samples, size)
            opacity *= look_up(model.textures, material, places, density[samples.triangle])[:, 3]
        row, column = samples.index // size % _SIDE, samples.index % _SIDE
        shift = 5 * material + 8 * (angle < 0)
        return np.asarray(_ORDER[(row * _SIDE + column + shift) % _SIDE**2] + 0.5 < opacity * _SIDE**2)

    samples = rasterize(points, size, model.textures.lucent[mesh.material], keep)
    values = interpolate(points, model.values, samples, size)
    normals = unit(values[:, :3]) @ turn.T.astype(np.float32)
    normals *= np.where(facing < 0, -1, 1).astype(np.float32)[samples.triangle, None]
    material = mesh.material[samples.triangle]
    texture = look_up(model.textures, material, values[:, 3:], density[samples.triangle])
    return View(samples.index, material, texture[:, :3], *_lit(normals))


def _rotation(azimuth: float, elevation: float) -> np.ndarray:
    """Return the (3, 3) rotation from the model's axes to the camera's: right, up, and towards the camera."""
    a, e = math.radians(azimuth), math.radians(elevation)
    around = np.array([[math.cos(a), 0, -math.sin(a)], [0, 1, 0], [math.sin(a), 0, math.cos(a)]])
    tilt = np.array([[1, 0, 0], [0, math.cos(e), -math.sin(e)], [0, math.sin(e), math.cos(e)]])
    return tilt @ around


def _projected(model: Model, turn: np.ndarray) -> np.ndarray:
    """Return (T, 3, 3) columns, rows and nearness of the triangles' corners; the model fills the picture."""
    seen = (model.mesh.positions - model.center) @ turn.T / model.radius
    near = 1 / (_DISTANCE - seen[:, 2])
    flat = seen[:, :2] * near[:, None] * np.array([1, -1])
    used = flat[model.mesh.triangles]
    low, high = used.min(axis=(0, 1)), used.max(axis=(0, 1))
    size = PIXELS * _SIDE
    scale = (size - 2 * _MARGIN * _SIDE) / max(float((high - low).max()), 1e-12)
    placed = (flat - (low + high) / 2) * scale + size / 2
    return np.concatenate([placed, near[:, None]], axis=1)[model.mesh.triangles]


def _lit(normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the strength of the light and of its reflection for (S, 3) normals, as the camera sees them."""
    key, fill = (unit(np.array(light)).astype(np.float32) for light in (_KEY, _FILL))
    half = unit(key + np.array([0, 0, 1], np.float32)).astype(np.float32)
    light = _AMBIENT + _SKY_LIGHT * normals[:, 1]
    light += _KEY_LIGHT * np.maximum(normals @ key, 0)
    light += _FILL_LIGHT * np.maximum(normals @ fill, 0)
    return light, np.maximum(normals @ half, 0) ** 40


def paint(model: Model, view: View, tints: Mapping[int, Tint] | None = None) -> np.ndarray:
    """Return a picture as (128, 128, 4) uint8 sRGB with alpha.

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
    """Return the colour that multiplies a material's image: white where there is one, since it has the colours."""
    return (1.0, 1.0, 1.0) if material.texture is not None else material.diffuse


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
    picture = np.zeros((PIXELS**2, 4))
    for channel in range(3):
        total = np.bincount(pixel, colors[:, channel], minlength=PIXELS**2)
        picture[:, channel] = total / np.maximum(counts, 1)
    picture[:, 3] = counts / _SIDE**2
    return (picture * 255).round().astype(np.uint8).reshape(PIXELS, PIXELS, 4)
