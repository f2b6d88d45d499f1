"""Materials of three-dimensional models: Wavefront MTL files and the images that they name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from smalti.common.checks import quoted
from smalti.errors import SmaltiError

Read = Callable[[str], bytes | None]
"""Function that returns the bytes of a file by its path inside a package, or None where there is none."""

_TEXTURE_PIXELS = 512
_MOST_PIXELS = 2**26
_OPTIONS = {  # options of map_Kd and the numbers that follow them at most
    "-blendu": 1, "-blendv": 1, "-bm": 1, "-boost": 1, "-cc": 1, "-clamp": 1, "-imfchan": 1,
    "-mm": 2, "-o": 3, "-s": 3, "-t": 3, "-texres": 1,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Material:
    """A surface: its colour, its opacity and its image.

    Attributes:
        name: the name in the MTL file.
        diffuse: sRGB colour, three numbers from 0 to 1.
        emission: light that the surface gives off, three numbers from 0 to 1.
        shine: strength of the highlight, from 0 to 1.
        opacity: 0 is invisible, 1 is opaque.
        texture: (H, W, 4) uint8 sRGB with alpha, or None. It replaces `diffuse`.
    """

    name: str = ""
    diffuse: tuple[float, float, float] = (0.8, 0.8, 0.8)
    emission: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shine: float = 0.0
    opacity: float = 1.0
    texture: np.ndarray | None = None


def read_materials(path: str, read: Read) -> dict[str, Material]:
    """Return the materials of an MTL file by name. A file or an image that is missing leaves plain colours.

    Args:
        path: path of the MTL file inside the package.
        read: returns the bytes of a file inside the package.

    Raises:
        SmaltiError: a number in the file is none, or an image cannot be decoded.
    """
    data = read(path)
    found: dict[str, Material] = {}
    images: dict[str, np.ndarray | None] = {}
    name = None
    for number, line in enumerate((data or b"").decode("utf-8", "replace").splitlines(), start=1):
        word, _, rest = line.strip().replace("\t", " ").partition(" ")
        rest = rest.strip()
        if word == "newmtl":
            name = rest
            found[name] = Material(name)
        elif name is not None and rest:
            try:
                found[name] = _changed(found[name], word, rest)
            except ValueError as error:
                raise SmaltiError(f"{path} line {number} must hold numbers, not {quoted(rest)}") from error
            if word.lower() == "map_kd":
                found[name] = replace(found[name], texture=_texture(path, rest, read, images))
    return found


def _changed(material: Material, word: str, rest: str) -> Material:
    """Return a material with one statement of an MTL file; other statements change nothing."""
    if word == "Kd":
        return replace(material, diffuse=_color(rest))
    if word == "Ke":
        return replace(material, emission=_color(rest))
    if word == "Ks":
        return replace(material, shine=max(_color(rest)))
    if word == "d":
        return replace(material, opacity=_share(rest.split()[-1]))  # "d -halo 0.5"
    return material


def _color(text: str) -> tuple[float, float, float]:
    """Return three numbers from 0 to 1; one number stands for three."""
    numbers = [_share(word) for word in text.split()[:3]]
    if len(numbers) == 3:
        return numbers[0], numbers[1], numbers[2]
    return numbers[0], numbers[0], numbers[0]


def _share(word: str) -> float:
    """Return a number, limited to the range from 0 to 1."""
    number = float(word)
    if math.isnan(number):
        raise ValueError(word)
    return min(max(number, 0.0), 1.0)


def _texture(path: str, rest: str, read: Read, images: dict[str, np.ndarray | None]) -> np.ndarray | None:
    """Return the image of a map_Kd statement. Files are looked up beside the MTL file, by the last part of the name."""
    words = rest.split()
    while words and words[0] in _OPTIONS:
        taken = 1
        while taken <= _OPTIONS[words[0]] and taken < len(words) - 1 and _is_value(words[taken]):
            taken += 1
        words = words[taken:]
    name = " ".join(words).replace("\\", "/")
    if name not in images:
        folder = PurePosixPath(path).parent
        inside = str(folder / PurePosixPath(name).name)
        data = read(inside)
        images[name] = None if data is None else decode_texture(data, inside)
    return images[name]


def _is_value(word: str) -> bool:
    """Return whether a word is the value of an option."""
    try:
        float(word)
    except ValueError:
        return word in ("on", "off", "r", "g", "b", "m", "l", "z")
    return True


def decode_texture(data: bytes, name: str) -> np.ndarray:
    """Return an image file as (H, W, 4) uint8 sRGB with alpha, with sides of at most 512 pixels.

    Raises:
        SmaltiError: it is no image, or too large.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise SmaltiError(f"{name} must have at most {_MOST_PIXELS} pixels, not {image.size}")
            image.draft("RGB", (_TEXTURE_PIXELS, _TEXTURE_PIXELS))
            picture = image.convert("RGBA")
    except SmaltiError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise SmaltiError(f"{name} is no image that can be read: {quoted(str(error))}") from error
    factor = max(picture.size) / _TEXTURE_PIXELS
    if factor > 1:
        size = (max(round(picture.width / factor), 1), max(round(picture.height / factor), 1))
        picture = picture.resize(size, Image.Resampling.BOX)
    return np.asarray(picture)
