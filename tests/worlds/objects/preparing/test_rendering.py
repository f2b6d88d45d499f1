from __future__ import annotations

import numpy as np
import pytest
from packages3d import cube_files

from smalti.errors import SmaltiError
from smalti.worlds.objects.colors import COLOR_NAMES, measured_color
from smalti.worlds.objects.preparing.meshes import read_mesh
from smalti.worlds.objects.preparing.rasterizing import interpolate, rasterize
from smalti.worlds.objects.preparing.recoloring import main_materials, recolored
from smalti.worlds.objects.preparing.rendering import PIXELS, Model, look, paint, prepare_model


def cube(*statements: str, texture: np.ndarray | None = None) -> Model:
    return prepare_model(read_mesh("m/cube.obj", cube_files(*statements, texture=texture).get))


def sheet(text: str) -> Model:
    return prepare_model(read_mesh("a.obj", {"a.obj": text.encode()}.get))


def shown(model: Model, azimuth: float = 30) -> np.ndarray:
    return paint(model, look(model, azimuth))


def corners(*triangles: tuple[tuple[float, float, float], ...]) -> np.ndarray:
    return np.array(triangles, np.float32).transpose(2, 1, 0).copy()


def test_the_nearer_triangle_shows() -> None:
    far = ((0, 0, 0.1), (8, 0, 0.1), (0, 8, 0.1))
    near = ((0, 0, 0.2), (4, 0, 0.2), (0, 4, 0.2))
    for order in ((far, near), (near, far)):
        samples = rasterize(corners(*order), 8)
        shown = np.full(64, -1)
        shown[samples.index] = samples.triangle
        picture = shown.reshape(8, 8)
        assert picture[0, 0] == order.index(near) and picture[0, 6] == order.index(far)
        assert picture[7, 7] == -1


def test_triangles_that_touch_cover_each_sample_once() -> None:
    generator = np.random.default_rng(0)
    inner = generator.random(2) * 12 + 2
    edge = [(0, 0), (16, 0), (16, 16), (0, 16)]
    fan = [((*a, 0.5), (*b, 0.5), (*inner, 0.5)) for a, b in zip(edge, edge[1:] + edge[:1], strict=True)]
    covered = [rasterize(corners(triangle), 16).index for triangle in fan]
    assert np.array_equal(np.sort(np.concatenate(covered)), np.arange(256))


def test_values_are_interpolated_in_perspective() -> None:
    points = corners(((0, 0, 1.0), (16, 0, 0.5), (0, 16, 0.5)))
    values = np.array([0.0, 1.0, 1.0], np.float32).reshape(1, 3, 1)
    samples = rasterize(points, 16)
    found = interpolate(points, values, samples, 16)[0]
    x, y = samples.index % 16 + 0.5, samples.index // 16 + 0.5
    share = (x + y) / 16
    assert np.allclose(found, share * 0.5 / (1 - share + share * 0.5), atol=1e-5)


def test_slivers_and_points_cover_nothing_and_raise_nothing() -> None:
    triangles = [
        ((1, 1, 0.5),) * 3,
        ((0, 0, 0.5), (16, 16, 0.5), (8, 8, 0.5)),
        ((3, 0, 0.1), (3, 9, 0.9), (3, 4, 0.5)),
    ]
    assert rasterize(corners(*triangles), 16).index.size == 0


def test_a_cube_fills_the_frame_with_a_margin() -> None:
    picture = shown(cube())
    assert picture.shape == (PIXELS, PIXELS, 4) and picture.dtype == np.uint8
    rows, columns = np.nonzero(picture[..., 3])
    assert min(rows.min(), columns.min()) == 3 and max(rows.max(), columns.max()) == PIXELS - 4
    assert picture[64, 64, 3] == 255
    assert not picture[picture[..., 3] == 0].any()


def test_edges_are_smooth() -> None:
    alpha = shown(cube())[..., 3]
    assert ((alpha > 0) & (alpha < 255)).sum() > 100


def test_the_same_model_has_the_same_pixels() -> None:
    files = cube_files("Kd 0.2 0.4 0.6", "d 0.5")
    first, second = (prepare_model(read_mesh("m/cube.obj", files.get)) for _ in range(2))
    assert np.array_equal(shown(first, 77), shown(second, 77))
    assert not np.array_equal(shown(first, 77), shown(first, 20))


def test_sides_have_different_light() -> None:
    picture = shown(cube("Kd 0.8 0.8 0.8"), 45)
    left, right, top = picture[80, 30, 0], picture[80, 98, 0], picture[20, 64, 0]
    assert len({int(left), int(right), int(top)}) == 3 and top > right


def test_the_front_looks_along_the_z_axis() -> None:
    floor = "v -1 0 -1\nv 1 0 -1\nv 1 0 1\nv -1 0 1\nv -1 1 -1\nv 1 1 -1\n"
    model = sheet(f"{floor}f 1 2 3 4\nf 1 5 6 2\n")
    assert shown(model, 0)[..., 3].sum() > shown(model, 90)[..., 3].sum()
    assert shown(model, 0)[10:40, 64, 3].max() == 255  # the wall stands behind the floor


def test_opacity_is_the_share_of_covered_samples() -> None:
    wall = "v -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nmtllib m.mtl\nusemtl g\nf 1 2 3 4\n"
    files = {"a.obj": wall.encode(), "m.mtl": b"newmtl g\nd 0.25\n"}
    model = prepare_model(read_mesh("a.obj", files.get))
    assert shown(model, 0)[64, 64, 3] == 159  # 10 of 16: glass is at least half opaque, 0.5 + 0.5 · 0.25
    clear = prepare_model(read_mesh("a.obj", {**files, "m.mtl": b"newmtl g\nd 0.001\n"}.get))
    assert not shown(clear, 0).any()


def test_transparent_images_cut_holes() -> None:
    texture = np.full((4, 4, 4), 255, np.uint8)
    texture[:, :2, 3] = 0
    alpha = shown(cube("map_Kd t.png", texture=texture), 0)[..., 3]
    assert 0.2 < (alpha > 128).mean() < (shown(cube(), 0)[..., 3] > 128).mean()


def test_images_are_placed_upright() -> None:
    texture = np.zeros((8, 8, 3), np.uint8)
    texture[:4, :, 0], texture[4:, :, 2] = 255, 255  # red above, blue below
    wall = "v -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nmtllib cube.mtl\nusemtl main\n"
    files = {
        f"m/{name.partition('/')[2]}": data
        for name, data in cube_files("map_Kd t.png", texture=texture).items()
    }
    files["m/a.obj"] = f"{wall}f 1/1 2/2 3/3 4/4\n".encode()
    picture = shown(prepare_model(read_mesh("m/a.obj", files.get)), 0)
    assert picture[30, 64, 0] > 200 and picture[100, 64, 2] > 200


def test_flat_models_are_seen_from_higher_up() -> None:
    flat = sheet("v 0 0 0\nv 3 0 0\nv 3 0 3\nv 0 0 3\nf 1 2 3 4\n")
    assert flat.elevation == 50 and cube().elevation == 18
    assert (shown(flat)[..., 3] > 0).mean() > 0.2


@pytest.mark.parametrize("color", COLOR_NAMES)
@pytest.mark.parametrize("diffuse", ["Kd 0.9 0.1 0.1", "Kd 0.02 0.02 0.02", "Kd 1 1 1"])
def test_recolored_models_measure_as_their_colour(color: str, diffuse: str) -> None:
    model = cube(diffuse, "Ks 0.3 0.3 0.3")
    view = look(model, 30)
    for tone in range(3):
        picture = recolored(model, view, main_materials(model, [view]), color, tone)
        assert picture is not None and measured_color(picture) == color
        assert len(np.unique(picture[picture[..., 3] == 255], axis=0)) > 2  # the shading stays


def test_patterns_stay_in_recolored_models() -> None:
    texture = np.kron(np.indices((4, 4)).sum(axis=0) % 2, np.ones((8, 8)))[..., None].repeat(3, axis=2)
    model = cube("map_Kd t.png", texture=(60 + 160 * texture).astype(np.uint8))
    view = look(model, 0)
    picture = recolored(model, view, (0,), "blue")
    assert picture is not None and np.ptp(picture[60:80, 40:90, 2].astype(int)) > 40


def test_glass_keeps_its_colour_and_small_parts_too() -> None:
    glass = cube("Kd 0 0 1", "d 0.3")
    view = look(glass, 0)
    assert main_materials(glass, [view]) == ()
    assert recolored(glass, view, (), "red") is None


def test_unknown_colours_and_empty_models_are_named() -> None:
    model = cube()
    with pytest.raises(SmaltiError, match="color must be"):
        recolored(model, look(model, 0), (0,), "mauve")
    with pytest.raises(SmaltiError, match="triangles with an area"):
        sheet("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    with pytest.raises(SmaltiError, match="azimuth"):
        look(model, 1000)
