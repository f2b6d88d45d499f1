"""Three-dimensional models of Debian's `sweethome3d-furniture`, rendered from twelve sides and in named colours."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.worlds.objects.archive import Sprite
from smalti.worlds.objects.colors import COLOR_NAMES, measured_color
from smalti.worlds.objects.preparing.debian import package_files
from smalti.worlds.objects.preparing.meshes import read_mesh
from smalti.worlds.objects.preparing.recoloring import main_materials, recolored
from smalti.worlds.objects.preparing.record import CatalogEntry
from smalti.worlds.objects.preparing.rendering import Model, look, paint, prepare_model

PACKAGE = "sweethome3d-furniture"
"""Name of the Debian package."""

STYLE = "3d-model"
"""Style of the sprites."""

AZIMUTHS = tuple(range(0, 360, 30))
"""Sides that a model is seen from, in degrees."""

FRONT_AZIMUTHS = tuple(angle % 360 for angle in range(-66, 67, 12))
"""Sides of a model whose back tells nothing."""

COLOR_AZIMUTHS = (30, 330)
"""Sides that a model in other colours is seen from, in turn."""

_CATALOG = "PluginFurnitureCatalog.properties"
_PROPERTY = re.compile(r"([A-Za-z]+)#(\d+)\s*=\s*(.*)")
_UPRIGHT = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # the back side of the model goes up
_LARGEST = 2**27  # bytes of a file in an archive of models


@dataclass(frozen=True)
class Furniture:
    """A model as its package describes it.

    Attributes:
        model: path of the OBJ file in the archive of models.
        name: English name.
        category: kind of furniture, such as "Living room".
        tags: further words.
        creator: who made it.
        rotation: (3, 3) matrix that turns it upright, or None.
    """

    model: str
    name: str
    category: str
    tags: tuple[str, ...]
    creator: str
    rotation: tuple[float, ...] | None


def sprites(
    package: Path, entries: Sequence[CatalogEntry], colors: Mapping[str, Sequence[str]] | None = None
) -> Iterator[tuple[Sprite, np.ndarray]]:
    """Yield images of models with their descriptions: twelve sides each, then one image for each other colour.

    Args:
        package: path of the .deb file.
        entries: the models to render, by "archive/path of the OBJ file".
        colors: colours that models get, by the same name; see `planned_colors`.

    Raises:
        SmaltiError: the package is broken, or a model is missing or broken.
    """
    wanted: dict[str, list[CatalogEntry]] = {}
    for entry in entries:
        wanted.setdefault(entry.entry.partition("/")[0], []).append(entry)
    for path, data in package_files(package, lambda path: path.endswith(".sh3f")):
        chosen = wanted.pop(PurePosixPath(path).stem, [])
        if not chosen:
            continue
        with _opened(data, path) as archive:
            known = {furniture.model: furniture for furniture in read_furniture(archive, path)}
            for entry in chosen:
                model = entry.entry.partition("/")[2]
                if model not in known:
                    raise SmaltiError(f"{package} must hold the model {quoted(entry.entry)}, and it does not")
                yield from _images(archive, known[model], entry, (colors or {}).get(entry.entry, ()))
        if not wanted:
            return
    if wanted:
        raise SmaltiError(f"{package} must hold {quoted(sorted(wanted)[0] + '.sh3f')}, and it does not")


def planned_colors(entries: Sequence[CatalogEntry], count: int = 6) -> dict[str, tuple[str, ...]]:
    """Return `count` colours for each model that may take others.

    The colours go round within a noun, so that each noun has as many different colours as it can.

    Args:
        entries: all models of the catalogue; their order decides.
        count: colours of a model.
    """
    given: dict[str, int] = {}
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        if entry.recolor:
            noun = entry.noun or entry.name
            # Nouns begin at different colours; steps of three reach all ten.
            first = given.setdefault(noun, sum(noun.encode()))
            found[entry.entry] = tuple(COLOR_NAMES[3 * (first + step) % 10] for step in range(count))
            given[noun] = first + count
    return found


def read_furniture(archive: zipfile.ZipFile, name: str) -> list[Furniture]:
    """Return the models of an archive, in the order of its catalogue.

    Raises:
        SmaltiError: the archive has no catalogue, or a model of it has no file.
    """
    text = _read(archive, _CATALOG, name)
    if text is None:
        raise SmaltiError(f"{name} must hold {_CATALOG}, and it does not")
    found: dict[int, dict[str, str]] = {}
    for line in text.decode("latin-1").splitlines():
        match = _PROPERTY.match(line)
        if match:
            found.setdefault(int(match[2]), {})[match[1]] = _unescaped(match[3].strip())
    return [_furniture(facts, name) for _, facts in sorted(found.items())]


def _furniture(facts: dict[str, str], name: str) -> Furniture:
    """Return a model from its properties."""
    if "model" not in facts or "name" not in facts:
        raise SmaltiError(f"{name} must name each model and its file; {quoted(str(facts))} does not")
    tags = tuple(tag.strip() for tag in facts.get("tags", "").split(",") if tag.strip())
    rotation: tuple[float, ...] | None = None
    if facts.get("modelRotation"):
        try:
            rotation = tuple(float(word) for word in facts["modelRotation"].split())
        except ValueError:
            rotation = ()
        if len(rotation) != 9:
            raise SmaltiError(
                f"{name} must give nine numbers as rotation, not {quoted(facts['modelRotation'])}"
            )
    model = facts["model"].lstrip("/")
    return Furniture(
        model, facts["name"], facts.get("category", ""), tags, facts.get("creator", ""), rotation
    )


def _unescaped(text: str) -> str:
    r"""Return a Java property with its \uXXXX and other escapes resolved."""
    text = re.sub(r"\\u([0-9A-Fa-f]{4})", lambda match: chr(int(match[1], 16)), text)
    return re.sub(r"\\(.)", r"\1", text)


def _opened(data: bytes, name: str) -> zipfile.ZipFile:
    """Return an archive of models."""
    try:
        return zipfile.ZipFile(BytesIO(data))
    except zipfile.BadZipFile as error:
        raise SmaltiError(f"{name} is no zip archive, or is damaged") from error


def _read(archive: zipfile.ZipFile, path: str, name: str) -> bytes | None:
    """Return a file of an archive, or None where there is none."""
    try:
        size = archive.getinfo(path).file_size
        if size > _LARGEST:
            raise SmaltiError(
                f"{name} must hold files of at most {_LARGEST} bytes, not {size}: {quoted(path)}"
            )
        return archive.read(path)
    except KeyError:
        return None
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise SmaltiError(f"{name} is damaged: {quoted(path)} cannot be read") from error


def load_model(archive: zipfile.ZipFile, furniture: Furniture, name: str, *, upright: bool = False) -> Model:
    """Return a model that is ready to be rendered.

    Args:
        archive: the archive of models.
        furniture: the model's description.
        name: names the archive in errors.
        upright: whether the model lies on its back, and is turned up.

    Raises:
        SmaltiError: its files are missing or broken.
    """
    rotation = np.eye(3) if furniture.rotation is None else np.array(furniture.rotation).reshape(3, 3)
    if upright:
        rotation = _UPRIGHT @ rotation
    return prepare_model(read_mesh(furniture.model, lambda path: _read(archive, path, name), rotation))


def _images(
    archive: zipfile.ZipFile, furniture: Furniture, entry: CatalogEntry, colors: Sequence[str]
) -> Iterator[tuple[Sprite, np.ndarray]]:
    """Yield the images of a model."""
    model = load_model(archive, furniture, entry.entry, upright=entry.upright)
    views = {angle: look(model, angle) for angle in (FRONT_AZIMUTHS if entry.front else AZIMUTHS)}
    for azimuth, view in views.items():
        image = paint(model, view)
        yield _sprite(entry, furniture, azimuth, measured_color(image), False), image
    materials = main_materials(model, [views[azimuth] for azimuth in COLOR_AZIMUTHS])
    for number, color in enumerate(colors):
        azimuth = COLOR_AZIMUTHS[number % len(COLOR_AZIMUTHS)]
        tinted = recolored(model, views[azimuth], materials, color, number + len(entry.entry))
        if tinted is not None:
            yield _sprite(entry, furniture, azimuth, color, True), tinted


def _sprite(
    entry: CatalogEntry, furniture: Furniture, azimuth: int, color: str | None, changed: bool
) -> Sprite:
    """Return the description of an image."""
    stem = entry.entry.removesuffix(".obj")
    return Sprite(
        key=f"{STYLE}/{stem}@{azimuth}" + (f"-{color}" if changed else ""),
        name=entry.name,
        noun=entry.noun,
        style=STYLE,
        color=color,
        recolored=changed,
        view=azimuth,
        licence=entry.licence,
        creator=furniture.creator,
        package=PACKAGE,
        entry=entry.entry,
    )
