"""Three-dimensional models as triangles, read from Wavefront OBJ files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.worlds.objects.preparing.materials import Material, Read, read_materials
from smalti.worlds.objects.preparing.polygons import corner_normals, triangulate

_MOST_FACES = 2_000_000


@dataclass(frozen=True, eq=False)
class Mesh:
    """A model as triangles. The y axis points up.

    Attributes:
        positions: (V, 3) float32 places of the vertices.
        triangles: (T, 3) int32 rows of `positions`.
        normals: (T, 3, 3) float32 unit normals of the corners.
        coordinates: (T, 3, 2) float32 places of the corners in the texture.
        material: (T,) int32 row of `materials`.
        materials: the surfaces.
    """

    positions: np.ndarray
    triangles: np.ndarray
    normals: np.ndarray
    coordinates: np.ndarray
    material: np.ndarray
    materials: tuple[Material, ...]


@dataclass
class _Statements:
    """Statements of an OBJ file by kind. Runs of faces share a material and a smoothing."""

    vertices: list[bytes] = field(default_factory=list)
    coordinates: list[bytes] = field(default_factory=list)
    normals: list[bytes] = field(default_factory=list)
    faces: list[bytes] = field(default_factory=list)
    counts: list[tuple[int, int, int]] = field(default_factory=list)  # statements before each face
    runs: list[tuple[int, str, bool]] = field(default_factory=list)  # first face, material, smooth
    libraries: list[str] = field(default_factory=list)


def read_mesh(path: str, read: Read, rotation: np.ndarray | None = None) -> Mesh:
    r"""Return the model of an OBJ file with the materials and images that it names.

    Args:
        path: path of the OBJ file inside the package.
        read: returns the bytes of a file inside the package, or None.
        rotation: (3, 3) matrix that turns the model upright, or None.

    Raises:
        SmaltiError: the file is missing or broken, or a material or an image of it is.

    Example:
        >>> files = {"a.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"}
        >>> read_mesh("a.obj", files.get).triangles.tolist()
        [[0, 1, 2]]
    """
    data = read(path)
    if data is None:
        raise SmaltiError(f"{path} does not exist in the package")
    found = _statements(data)
    if not found.faces:
        raise SmaltiError(f"{path} must hold faces, and it holds none")
    if len(found.faces) > _MOST_FACES:
        raise SmaltiError(f"{path} must hold at most {_MOST_FACES} faces, not {len(found.faces)}")
    positions = _numbers(found.vertices, 3, path, "v").astype(np.float32)
    if rotation is not None:
        positions = positions @ np.asarray(rotation, np.float32).T
    faces, corners, sizes = _faces(found, path)
    triangles = triangulate(positions, corners[:, 0], sizes)
    owner = faces[triangles[:, 0]]
    places = corners[:, 0][triangles]
    coordinates = _picked(_numbers(found.coordinates, 2, path, "vt"), corners[:, 1][triangles])
    given = _numbers(found.normals, 3, path, "vn")
    if rotation is not None:
        given = given @ np.asarray(rotation, np.float64).T
    material, materials, smooth = _surfaces(found, path, read)
    normals = corner_normals(positions, places, smooth[owner], _picked(given, corners[:, 2][triangles]))
    return Mesh(
        positions,
        places.astype(np.int32),
        normals,
        coordinates.astype(np.float32),
        material[owner],
        materials,
    )


def _statements(data: bytes) -> _Statements:
    """Return the statements of an OBJ file; those of other kinds are left out."""
    found = _Statements()
    vertices, coordinates, normals = found.vertices, found.coordinates, found.normals
    material, smooth = "", True
    found.runs.append((0, material, smooth))
    for line in data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").splitlines():
        word = line[:2]
        if word == b"v ":
            vertices.append(line[2:])
            continue
        if word == b"f ":
            found.faces.append(line[2:])
            found.counts.append((len(vertices), len(coordinates), len(normals)))
            continue
        parts = line.split(None, 1)
        if len(parts) < 2:
            continue
        word, rest = parts
        if word == b"vt":
            coordinates.append(rest)
        elif word == b"vn":
            normals.append(rest)
        elif word == b"v":
            vertices.append(rest)
        elif word == b"f":
            found.faces.append(rest)
            found.counts.append((len(vertices), len(coordinates), len(normals)))
        elif word == b"mtllib":
            found.libraries.append(rest.decode("utf-8", "replace").strip())
        elif word in (b"usemtl", b"s"):
            if word == b"usemtl":
                material = rest.decode("utf-8", "replace").strip()
            else:
                smooth = rest.strip() not in (b"off", b"0")
            found.runs.append((len(found.faces), material, smooth))
    return found


def _numbers(lines: list[bytes], columns: int, path: str, word: str) -> np.ndarray:
    """Return the first `columns` numbers of each line as (lines, columns) float64."""
    words = b" ".join(lines).split()
    if len(words) != columns * len(lines):  # weights, colours or a depth follow
        words = [part for line in lines for part in line.split()[:columns]]
    if len(words) != columns * len(lines):
        raise SmaltiError(f"{path} must hold {columns} numbers in each {word!r} statement")
    try:
        values = np.array(list(map(float, words))).reshape(-1, columns)
    except ValueError as error:
        raise SmaltiError(
            f"{path} must hold numbers in its {word!r} statements: {quoted(str(error))}"
        ) from error
    if not np.isfinite(values).all() or (len(values) and np.abs(values).max() > 1e12):
        raise SmaltiError(f"{path} must hold finite numbers in its {word!r} statements")
    return values


def _faces(found: _Statements, path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the corners of all polygons: (C,) face of each, (C, 3) place, texture place and normal, (F,) sizes.

    A corner without a texture place or a normal has −1 there.
    """
    words = [line.split() for line in found.faces]
    sizes = np.array([len(corners) for corners in words], np.int64)
    flat = [word for corners in words for word in corners]
    indices = np.zeros((len(flat), 3), np.int64)
    slashes = np.array([word.count(b"/") for word in flat], np.int64)
    if len(slashes) and slashes.max() > 2:
        raise SmaltiError(f"{path} must hold at most three numbers for each corner of a face")
    for count in np.unique(slashes).tolist():
        rows = np.flatnonzero(slashes == count)
        text = b" ".join(flat if len(rows) == len(flat) else [flat[row] for row in rows]) + b" "
        text = text.replace(b"//", b"/0/").replace(b"/ ", b"/0 ").replace(b"/", b" ")
        try:
            values = np.array(list(map(int, text.split())), np.int64)
            indices[rows, : count + 1] = values.reshape(len(rows), count + 1)
        except (ValueError, OverflowError) as error:
            raise SmaltiError(f"{path} must hold whole numbers in its faces: {quoted(str(error))}") from error
    faces = np.repeat(np.arange(len(sizes)), sizes)
    before = np.array(found.counts, np.int64).reshape(-1, 3)[faces]
    indices = np.where(indices < 0, before + indices, indices - 1)
    limits = np.array([len(found.vertices), len(found.coordinates), len(found.normals)])
    if (indices >= limits).any() or (indices[:, 0] < 0).any() or (indices < -1).any():
        raise SmaltiError(f"{path} must hold faces of vertices that it has; a face names another")
    return faces, indices, sizes


def _picked(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows of a table; a row of −1 gives zeros."""
    table = np.concatenate([values, np.zeros((1, values.shape[1]))])
    return table[rows]


def _surfaces(
    found: _Statements, path: str, read: Read
) -> tuple[np.ndarray, tuple[Material, ...], np.ndarray]:
    """Return (F,) rows of the materials, the materials, and (F,) whether a face is smooth."""
    known: dict[str, Material] = {}
    for library in found.libraries:
        # Names may hold spaces, and more than one library may stand in a statement.
        names = [library] if read(_beside(path, library)) is not None else library.split()
        for name in names:
            known.update(read_materials(_beside(path, name), read))
    order: dict[str, int] = {}
    material = np.zeros(len(found.faces), np.int32)
    smooth = np.zeros(len(found.faces), bool)
    ends = [first for first, _, _ in found.runs[1:]] + [len(found.faces)]
    for (first, name, soft), end in zip(found.runs, ends, strict=True):
        if end > first:
            material[first:end] = order.setdefault(name, len(order))
            smooth[first:end] = soft
    return material, tuple(known.get(name, Material(name)) for name in order), smooth


def _beside(path: str, name: str) -> str:
    """Return the path of a file that stands beside another, by the last part of its name."""
    return str(PurePosixPath(path).parent / PurePosixPath(name.replace("\\", "/")).name)
