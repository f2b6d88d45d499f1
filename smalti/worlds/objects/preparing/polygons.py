"""Polygons of a model as triangles, and the normals of their corners."""

from __future__ import annotations

import numpy as np

_CREASE = 0.64  # cosine of 50 degrees: sharper edges stay edges


def triangulate(positions: np.ndarray, places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the corners of triangles that cover polygons.

    Convex polygons become fans. Others lose one ear after another.

    Args:
        positions: (V, 3) places of the vertices.
        places: (C,) vertex of each corner, polygon by polygon.
        sizes: (F,) corners of each polygon; those of fewer than three corners are left out.

    Returns:
        (T, 3) int64 rows of `places`, ordered by polygon.
    """
    starts = np.cumsum(sizes) - sizes
    parts, owners = [], []
    for size in np.unique(sizes[sizes >= 3]).tolist():
        faces = np.flatnonzero(sizes == size)
        corners = starts[faces, None] + np.arange(size)
        steps = np.arange(1, size - 1)
        fan = np.stack([np.zeros_like(steps), steps, steps + 1], axis=1)
        if size > 3:
            points = positions[places[corners]].astype(np.float64)
            fans = _convex(points)
            for row in np.flatnonzero(~fans).tolist():
                parts.append(corners[row][_ears(points[row])])
                owners.append(np.full(size - 2, faces[row]))
            faces, corners = faces[fans], corners[fans]
        parts.append(corners[:, fan].reshape(-1, 3))
        owners.append(np.repeat(faces, size - 2))
    if not parts:
        return np.zeros((0, 3), np.int64)
    return np.concatenate(parts)[np.argsort(np.concatenate(owners), kind="stable")]


def _areas(points: np.ndarray) -> np.ndarray:
    """Return (F, 3) twice the area of polygons along their normals (Newell's method)."""
    following = np.roll(points, -1, axis=1)
    return np.cross(points, following).sum(axis=1)


def _convex(points: np.ndarray) -> np.ndarray:
    """Return (F,) whether polygons of (F, n, 3) corners turn one way at every corner."""
    centered = points - points[:, :1]
    normals = _areas(centered)
    before, after = centered - np.roll(centered, 1, axis=1), np.roll(centered, -1, axis=1) - centered
    turns = np.einsum("fnk,fk->fn", np.cross(before, after), normals)
    scale = np.linalg.norm(before, axis=2) * np.linalg.norm(after, axis=2)
    scale *= np.linalg.norm(normals, axis=1)[:, None]
    return np.asarray((turns >= -0.02 * scale).all(axis=1))


def _ears(points: np.ndarray) -> np.ndarray:
    """Return (n − 2, 3) corners of triangles that cover one polygon of (n, 3) points, by ear clipping."""
    normal = _areas((points - points[:1])[None])[0]
    axis = int(np.abs(normal).argmax())
    flat = np.delete(points, axis, axis=1)
    sign = np.sign(normal[axis]) * (-1 if axis == 1 else 1) or 1.0
    left = list(range(len(points)))
    found = []
    while len(left) > 3:
        place = next((at for at in range(len(left)) if _is_ear(flat, left, at, sign)), 0)
        found.append((left[place - 1], left[place], left[(place + 1) % len(left)]))
        left.pop(place)
    return np.array([*found, tuple(left)])


def _is_ear(flat: np.ndarray, left: list[int], at: int, sign: float) -> bool:
    """Return whether a corner can be cut off: it turns the polygon's way, and no other corner lies in its triangle."""
    a, b, c = flat[left[at - 1]], flat[left[at]], flat[left[(at + 1) % len(left)]]
    if sign * _turn(a, b, c) <= 0:
        return False
    taken = {left[at - 1], left[at], left[(at + 1) % len(left)]}
    others = flat[[corner for corner in left if corner not in taken]]
    inside = np.ones(len(others), bool)
    for first, second in ((a, b), (b, c), (c, a)):
        inside &= sign * _turn(first, second, others) > 0
    return not inside.any()


def _turn(a: np.ndarray, b: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return twice the signed area of the triangles of two points and one of `points` (..., 2)."""
    return (b[0] - a[0]) * (points[..., 1] - a[1]) - (b[1] - a[1]) * (points[..., 0] - a[0])


def corner_normals(
    positions: np.ndarray, triangles: np.ndarray, smooth: np.ndarray, given: np.ndarray
) -> np.ndarray:
    """Return (T, 3, 3) float32 unit normals of the corners.

    A corner takes the file's normal if there is one. Smooth triangles take the mean normal of their neighbours, unless
    it is more than 50 degrees from their own. Other triangles take their own.

    Args:
        positions: (V, 3) places of the vertices.
        triangles: (T, 3) rows of `positions`.
        smooth: (T,) whether a triangle is smooth.
        given: (T, 3, 3) normals of the file; zeros where it has none.
    """
    points = positions[triangles].astype(np.float64)
    areas = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    own = np.repeat(unit(areas)[:, None], 3, axis=1)
    lengths = np.linalg.norm(given, axis=2)
    if smooth.any() and not (lengths > 0).all():
        same = _same_places(positions)[triangles[smooth]]
        sums = np.zeros((int(same.max()) + 1, 3))
        for corner in range(3):
            for axis in range(3):
                sums[:, axis] += np.bincount(same[:, corner], areas[smooth][:, axis], minlength=len(sums))
        mean = unit(sums)[same]
        near = (mean * own[smooth]).sum(axis=2) > _CREASE
        own[smooth] = np.where(near[..., None], mean, own[smooth])
    normals = np.where((lengths > 1e-9)[..., None], unit(given), own)
    return normals.astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))


def _same_places(positions: np.ndarray) -> np.ndarray:
    """Return (V,) a number for each vertex; vertices in the same place share one."""
    low = positions.min(axis=0)
    extent = float((positions - low).max()) or 1.0
    steps = np.round((positions - low) / extent * (2**20 - 1)).astype(np.int64)
    keys = (steps[:, 0] << 42) | (steps[:, 1] << 21) | steps[:, 2]
    return np.unique(keys, return_inverse=True)[1]
