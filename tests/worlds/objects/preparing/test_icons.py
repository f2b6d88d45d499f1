from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import sprite_packages

from smalti.errors import SmaltiError
from smalti.worlds.objects.preparing.framing import fitted
from smalti.worlds.objects.preparing.icons import load_renderer, npm_files, read_icons


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.tgz"
    path.write_bytes(sprite_packages.icon_set())
    return path


def test_an_icon_is_rendered(package: Path) -> None:
    pytest.importorskip("resvg_py")
    image = load_renderer()(read_icons(package), "apple")
    pixels = np.asarray(image)
    assert pixels.shape == (160, 160, 4)
    assert (pixels[80, 80] == (220, 32, 40, 255)).all() and pixels[5, 5, 3] == 0


def test_an_icon_that_is_not_square(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    value = {"icons": {"bar": {"body": '<rect width="32" height="16"/>', "width": 32, "height": 16}}}
    path = tmp_path / "bar.tgz"
    path.write_bytes(sprite_packages.tarball({"package/icons.json": json.dumps(value).encode()}))
    image = load_renderer()(read_icons(path), "bar")
    assert image.size == (160, 80)
    alpha = fitted(image, "bar")[..., 3]
    assert (alpha[64, 3:125] == 255).all() and not alpha[:33].any() and not alpha[:, :3].any()


def test_aliases(package: Path) -> None:
    icons = read_icons(package)
    assert icons.svg("second-apple") == icons.svg("apple")
    with pytest.raises(SmaltiError, match="must hold the icon 'quince', and it does not"):
        icons.svg("quince")


@pytest.mark.parametrize(
    ("icon", "complaint"),
    [
        ({"body": 3}, "must give 'odd' a body"),
        ({"body": "<g/>", "width": -2}, "must give 'odd' a width, not -2"),
        ({"body": "<g/>", "left": "x"}, "must give 'odd' a left, not 'x'"),
        ({"body": "<g"}, "'odd' is no SVG"),
    ],
)
def test_odd_icons(tmp_path: Path, icon: dict, complaint: str) -> None:
    pytest.importorskip("resvg_py")
    path = tmp_path / "odd.tgz"
    value = {"icons": {"odd": icon}}
    path.write_bytes(sprite_packages.tarball({"package/icons.json": json.dumps(value).encode()}))
    with pytest.raises(SmaltiError, match=complaint):
        load_renderer()(read_icons(path), "odd")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is broken"),
        (b"no archive", "is broken"),
        (sprite_packages.icon_set()[:150], "is broken"),
        (sprite_packages.tarball({"package/other.json": b"{}"}), "must hold icons"),
        (sprite_packages.tarball({"package/icons.json": b"[]"}), "must hold icons"),
        (sprite_packages.tarball({"package/icons.json": b"{"}), "is not JSON"),
    ],
)
def test_broken_packages(tmp_path: Path, data: bytes, complaint: str) -> None:
    path = tmp_path / "broken.tgz"
    path.write_bytes(data)
    with pytest.raises(SmaltiError, match=complaint):
        read_icons(path)


def test_a_missing_package(tmp_path: Path) -> None:
    with pytest.raises(SmaltiError, match=r"none\.tgz does not exist"):
        npm_files(tmp_path / "none.tgz", bool)


def test_resvg_is_optional(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(SmaltiError, match=r"SVG drawings need resvg: pip install 'smalti\[objects\]'"):
        load_renderer()


def test_what_is_transparent_cannot_be_fitted() -> None:
    from PIL import Image

    with pytest.raises(SmaltiError, match="nothing must show something"):
        fitted(Image.new("RGBA", (8, 8)), "nothing")
