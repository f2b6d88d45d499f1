from __future__ import annotations

import numpy as np
import pytest
from packages3d import cube_files, picture

from smalti.errors import SmaltiError
from smalti.worlds.objects.preparing.meshes import Mesh, read_mesh
from smalti.worlds.objects.preparing.polygons import triangulate

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def mesh_of(text: str | bytes, **files: bytes) -> Mesh:
    data = text.encode() if isinstance(text, str) else text
    return read_mesh("m/a.obj", {"m/a.obj": data, **files}.get)


def area(mesh: Mesh) -> float:
    a, b, c = (mesh.positions[mesh.triangles[:, corner]] for corner in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def test_a_cube_has_twelve_triangles_with_normals_and_its_image() -> None:
    texture = np.full((2, 2, 3), 200, np.uint8)
    mesh = read_mesh("m/cube.obj", cube_files("Kd 1 0 0", "d 0.5", "map_Kd t.png", texture=texture).get)
    assert mesh.triangles.shape == (12, 3)
    assert area(mesh) == pytest.approx(6)
    assert np.allclose(np.abs(mesh.normals).max(axis=2), 1)
    assert mesh.coordinates.min() == 0 and mesh.coordinates.max() == 1
    (material,) = mesh.materials
    assert material.diffuse == (1, 0, 0) and material.opacity == 0.5
    assert material.texture is not None and material.texture[0, 0].tolist() == [200, 200, 200, 255]


@pytest.mark.parametrize("face", ["1 2 3 4", "-4 -3 -2 -1", "1/ 2/ 3/ 4/", "1// 2// 3// 4//"])
def test_faces_in_all_spellings(face: str) -> None:
    assert area(mesh_of(f"{SQUARE}f {face}\n")) == pytest.approx(1)


def test_lines_of_other_layouts() -> None:
    text = "# a\r\nv\t0 0 0 1.0\r\n v 1 0 0\r\nv 0 1 0 0.5 0.5 0.5\r\nl 1 2\r\nf 1 2\r\nf 1 2 \\\r\n3\r\n"
    assert area(mesh_of(text)) == pytest.approx(0.5)


def test_given_normals_are_kept_and_rotated() -> None:
    turned = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    files = {"a.obj": f"{SQUARE}vn 0 0 2\nf 1//1 2//1 3//1\n".encode()}
    assert read_mesh("a.obj", files.get).normals[0, 0].tolist() == [0, 0, 1]
    assert read_mesh("a.obj", files.get, turned).normals[0, 0].tolist() == [0, -1, 0]


def test_smooth_corners_share_a_normal_and_sharp_ones_do_not() -> None:
    roof = "v 0 0 0\nv 1 0 0\nv 0 0 -1\nv 0 {h} 1\ns 1\nf 1 2 3\nf 1 4 2\n"
    flat = mesh_of(roof.format(h=-0.2))
    assert np.allclose(flat.normals[0, 0], flat.normals[1, 0])
    sharp = mesh_of(roof.format(h=-5))
    assert not np.allclose(sharp.normals[0, 0], sharp.normals[1, 0])


def test_concave_polygons_are_covered_once() -> None:
    letter = [(0, 0), (3, 0), (3, 1), (1, 1), (1, 3), (0, 3)]
    text = "".join(f"v {x} {y} 0\n" for x, y in letter) + "f 1 2 3 4 5 6\n"
    assert area(mesh_of(text)) == pytest.approx(5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("turn", [1, -1])
def test_ears_are_cut_in_every_plane(axis: int, turn: int) -> None:
    star = np.array([(0, 3), (0.7, 1), (3, 0), (0.7, -1), (0, -3), (-0.7, -1), (-3, 0), (-0.7, 1)])[::turn]
    points = np.insert(star, axis, 2.0, axis=1)
    triangles = triangulate(points, np.arange(8), np.array([8]))
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    crosses = np.cross(b - a, c - a)
    outline = np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0)
    assert len(triangles) == 6
    assert np.abs(crosses.sum(axis=0)[axis]) == pytest.approx(np.linalg.norm(crosses, axis=1).sum())
    assert np.abs(crosses.sum(axis=0)[axis]) == pytest.approx(np.abs(outline[axis]))


def test_a_polygon_that_crosses_itself_still_ends() -> None:
    assert len(mesh_of("v 0 0 0\nv 2 2 0\nv 2 0 0\nv 0 2 0\nv 1 5 0\nf 1 2 3 4 5\n").triangles) == 3


def test_missing_materials_and_images_leave_plain_colours() -> None:
    assert mesh_of(f"mtllib none.mtl\n{SQUARE}usemtl x\nf 1 2 3\n").materials[0].diffuse == (0.8, 0.8, 0.8)
    files = {"m/a b.mtl": b"newmtl x\nKd 0 1 0\nmap_Kd -s 1 1 1 C:\\here\\no image.jpg\n"}
    mesh = mesh_of(f"mtllib a b.mtl\n{SQUARE}usemtl x\nf 1 2 3\n", **files)
    assert mesh.materials[0].diffuse == (0, 1, 0) and mesh.materials[0].texture is None


def test_images_are_found_by_the_last_part_of_their_name() -> None:
    files = {
        "m/a.mtl": b"newmtl x\nmap_Kd -o 0.1 0.2 -clamp on /home/me/my wood.png\n",
        "m/my wood.png": picture(np.zeros((600, 1200), np.uint8)),
    }
    texture = mesh_of(f"mtllib /b/a.mtl\n{SQUARE}usemtl x\nf 1 2 3\n", **files).materials[0].texture
    assert texture is not None and texture.shape == (256, 512, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold faces"),
        (SQUARE, "must hold faces"),
        (f"{SQUARE}f 1 2 9\n", "names another"),
        (f"{SQUARE}f 1 2 0\n", "names another"),
        (f"{SQUARE}f 1 2 -9\n", "names another"),
        (f"{SQUARE}f 1/7 2/7 3/7\n", "names another"),
        (f"{SQUARE}f 1 2 x\n", "whole numbers"),
        (f"{SQUARE}f 1/1/1/1 2 3\n", "three numbers"),
        (f"{SQUARE}f 1 2 99999999999999999999999\n", "whole numbers"),
        ("v 0 0\nf 1 1 1\n", "3 numbers"),
        ("v 0 zero 0\nf 1 1 1\n", "must hold numbers"),
        ("v 0 nan 0\nf 1 1 1\n", "finite"),
        ("v 0 1e30 0\nf 1 1 1\n", "finite"),
        (b"\x00\xff\xfe" * 50, "must hold faces"),
    ],
)
def test_broken_models_are_one_clear_error(text: str | bytes, message: str) -> None:
    with pytest.raises(SmaltiError, match=message) as raised:
        mesh_of(text)
    assert len(str(raised.value).splitlines()) == 1 and len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("material", "message"),
    [(b"newmtl x\nKd red\n", "line 2 must hold numbers"), (b"newmtl x\nd nan\n", "line 2 must hold numbers")],
)
def test_broken_materials_are_one_clear_error(material: bytes, message: str) -> None:
    with pytest.raises(SmaltiError, match=message):
        mesh_of(f"mtllib a.mtl\n{SQUARE}usemtl x\nf 1 2 3\n", **{"m/a.mtl": material})


def test_broken_images_are_one_clear_error() -> None:
    files = {"m/a.mtl": b"newmtl x\nmap_Kd t.png\n", "m/t.png": b"no image"}
    with pytest.raises(SmaltiError, match="no image that can be read"):
        mesh_of(f"mtllib a.mtl\n{SQUARE}usemtl x\nf 1 2 3\n", **files)
    with pytest.raises(SmaltiError, match="does not exist in the package"):
        read_mesh("m/none.obj", {}.get)
