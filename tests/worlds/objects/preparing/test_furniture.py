from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from packages3d import cube_files, debian_package, models_archive, picture

from smalti.errors import SmaltiError
from smalti.worlds.objects.preparing import clipart, furniture
from smalti.worlds.objects.preparing.record import CATALOGS, CatalogEntry, read_catalog

CATALOG = """\
# a comment
id#1=x#cube
name#1=Caf\\u00e9 cube
tags#1=Box, Thing
category#1=Office
model#1=/m/cube.obj
modelRotation#1=1 0 0 0 1 0 0 0 1
creator#1=Somebody
"""
ENTRY = CatalogEntry("Some/m/cube.obj", "cube", "box", "CC0-1.0")


def package(folder: Path, catalog: str = CATALOG, **files: bytes) -> Path:
    data = models_archive({**cube_files("Kd 0 0.6 0"), **files}, catalog)
    return debian_package(folder / "p.deb", {"usr/share/Some.sh3f": data, "usr/share/Other.sh3f": b"no zip"})


def test_twelve_sides_and_other_colours(tmp_path: Path) -> None:
    colors = furniture.planned_colors([ENTRY])
    found = list(furniture.sprites(package(tmp_path), [ENTRY], colors))
    plain = [sprite for sprite, _ in found if not sprite.recolored]
    tinted = [sprite for sprite, _ in found if sprite.recolored]
    assert [sprite.view for sprite in plain] == list(range(0, 360, 30))
    assert {sprite.color for sprite in plain} == {"green"}
    assert tuple(sprite.color for sprite in tinted) == colors[ENTRY.entry] and len(tinted) == 6
    assert {(sprite.name, sprite.noun, sprite.creator) for sprite, _ in found} == {
        ("cube", "box", "Somebody")
    }
    assert len({sprite.key for sprite, _ in found}) == 18
    assert all(pixels.shape == (128, 128, 4) and pixels.dtype == np.uint8 for _, pixels in found)


def test_things_with_a_plain_back_show_their_front(tmp_path: Path) -> None:
    entry = CatalogEntry(ENTRY.entry, "cube", "box", "CC0-1.0", recolor=False, front=True, upright=True)
    views = [sprite.view for sprite, _ in furniture.sprites(package(tmp_path), [entry])]
    assert views == [294, 306, 318, 330, 342, 354, 6, 18, 30, 42, 54, 66]
    assert furniture.planned_colors([entry]) == {}


def test_colours_go_round_within_a_noun() -> None:
    entries = [CatalogEntry(f"a/{number}", "chair", "chair", "") for number in range(5)]
    given = [color for colors in furniture.planned_colors(entries).values() for color in colors]
    assert {given.count(color) for color in given} == {3} and len(set(given)) == 10
    assert all(len(set(colors)) == 6 for colors in furniture.planned_colors(entries).values())


def test_the_catalogue_of_an_archive_is_read(tmp_path: Path) -> None:
    import io
    import zipfile

    archive = zipfile.ZipFile(io.BytesIO(models_archive(cube_files(), CATALOG)))
    (found,) = furniture.read_furniture(archive, "Some.sh3f")
    assert (found.name, found.tags, found.category, found.model) == (
        "Café cube",
        ("Box", "Thing"),
        "Office",
        "m/cube.obj",
    )


@pytest.mark.parametrize(
    ("catalog", "message"),
    [
        (CATALOG.replace("cube.obj", "none.obj"), "it does not"),
        (CATALOG.replace("name#1", "title#1"), "must name each model"),
        (CATALOG.replace("1 0 0 0 1", "1 0 zero 0 1"), "nine numbers"),
        (CATALOG.replace("1 0 0 0 1", "1 0"), "nine numbers"),
    ],
)
def test_broken_catalogues_are_one_clear_error(tmp_path: Path, catalog: str, message: str) -> None:
    with pytest.raises(SmaltiError, match=message):
        list(furniture.sprites(package(tmp_path, catalog), [ENTRY]))


def test_missing_and_broken_archives_are_named(tmp_path: Path) -> None:
    path = package(tmp_path)
    with pytest.raises(SmaltiError, match=r"Third.sh3f.*does not"):
        list(furniture.sprites(path, [CatalogEntry("Third/a.obj", "a", "a", "")]))
    with pytest.raises(SmaltiError, match="no zip archive"):
        list(furniture.sprites(path, [CatalogEntry("Other/a.obj", "a", "a", "")]))
    with pytest.raises(SmaltiError, match="must hold faces"):
        list(furniture.sprites(package(tmp_path, **{"m/cube.obj": b"v 0 0 0"}), [ENTRY]))


def test_drawings_are_trimmed_and_named(tmp_path: Path) -> None:
    pixels = np.zeros((300, 400, 4), np.uint8)
    pixels[100:200, 50:300] = (220, 30, 30, 255)
    files = {clipart.FOLDER + "a/b.png": picture(pixels), clipart.FOLDER + "c.png": b"?"}
    path = debian_package(tmp_path / "p.deb", files)
    ((sprite, shown),) = clipart.sprites(
        path, [CatalogEntry("a/b.png", "red thing", "thing", "public domain")]
    )
    assert (sprite.key, sprite.color, sprite.style) == ("clipart/a/b", "red", "clipart")
    rows, columns = np.nonzero(shown[..., 3])
    assert (columns.min(), columns.max()) == (3, 124) and rows.max() - rows.min() == 48
    with pytest.raises(SmaltiError, match="no image that can be read"):
        list(clipart.sprites(path, [CatalogEntry("c.png", "x", "x", "")]))
    with pytest.raises(SmaltiError, match="does not"):
        list(clipart.sprites(path, [CatalogEntry("d.png", "x", "x", "")]))


@pytest.mark.parametrize("name", ["furniture.jsonl", "clipart.jsonl"])
def test_catalogues_are_clean(name: str) -> None:
    entries = read_catalog(CATALOGS / name)
    assert len({entry.entry for entry in entries}) == len(entries) > 500
    assert all(entry.noun and entry.name == entry.name.strip() for entry in entries)
    texts = " ".join(entry.name.lower() for entry in entries).split()
    brands = {
        "apple iphone",
        "iphone",
        "imac",
        "ibook",
        "peugeot",
        "renault",
        "seat",
        "nikon",
        "hummer",
        "playstation",
    }
    assert not brands & set(texts)
    assert not {"man", "woman", "boy", "girl", "male", "female"} & set(texts)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "JSON object"),
        (json.dumps({"entry": "a", "name": "b"}), "texts"),
        (json.dumps({"entry": "a", "name": "b", "licence": "c", "noun": 1}), "texts"),
        (json.dumps({"entry": "a", "name": "b", "licence": "c", "front": 1}), "true or false"),
    ],
)
def test_broken_lines_of_a_catalogue_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(SmaltiError, match=f"line 1 .*{message}"):
        read_catalog(path)
