"""Sets of SVG icons in npm packages: one JSON file with the body of each icon, rendered with resvg."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from smalti.common.checks import quoted
from smalti.common.files import parse_json
from smalti.errors import SmaltiError

_ICONS = "package/icons.json"
_LARGEST = 2**28  # bytes of a file in a package
_MOST_ALIASES = 8
_SIDE = 160  # pixels of the longer side; more than that of a sprite, since drawings have margins
_FRAME = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{}">{}</svg>'
)


@dataclass(frozen=True, eq=False)
class Icons:
    """A set of icons.

    Attributes:
        name: names the set in errors.
        icons: body and sizes of each icon.
        aliases: icons that are another one under a second name.
        sizes: sizes that hold for icons without their own.
    """

    name: str
    icons: Mapping[str, Any]
    aliases: Mapping[str, Any]
    sizes: Mapping[str, Any]

    def box(self, icon: str) -> tuple[float, float, float, float]:
        """Return left edge, top edge, width and height of an icon, in its own units."""
        found = self._found(icon)
        values = []
        for name, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16)):
            value = found.get(name, self.sizes.get(name, default))
            if not isinstance(value, int | float) or (default and not 0 < value < 2**16):
                raise SmaltiError(f"{self.name} must give {quoted(icon)} a {name}, not {quoted(value)}")
            values.append(float(value))
        return values[0], values[1], values[2], values[3]

    def svg(self, icon: str) -> str:
        """Return an icon as an SVG document.

        Raises:
            SmaltiError: the set has no such icon.
        """
        body = self._found(icon).get("body")
        if not isinstance(body, str):
            raise SmaltiError(f"{self.name} must give {quoted(icon)} a body, and it does not")
        return _FRAME.format(" ".join(f"{value:g}" for value in self.box(icon)), body)

    def _found(self, icon: str) -> Mapping[str, Any]:
        """Return the description of an icon, or of the one that it is an alias of."""
        name: Any = icon
        for _ in range(_MOST_ALIASES):
            if isinstance(found := self.icons.get(name), dict):
                return found
            name = dict(self.aliases.get(name) or {}).get("parent")
        raise SmaltiError(f"{self.name} must hold the icon {quoted(icon)}, and it does not")


def read_icons(package: Path) -> Icons:
    """Return the icons of an npm package.

    Raises:
        SmaltiError: the package is broken, or holds no icons.
    """
    for data in npm_files(package, {_ICONS}.__contains__).values():
        value = parse_json(data, f"{_ICONS} of {package}")
        if isinstance(value, dict) and isinstance(value.get("icons"), dict):
            aliases = value.get("aliases")
            return Icons(package.name, value["icons"], aliases if isinstance(aliases, dict) else {}, value)
    raise SmaltiError(f"{package} must hold icons in {_ICONS}, and it does not")


def npm_files(package: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Return the wanted files of an npm package by their paths, such as "package/icons.json". Nothing is written.

    Raises:
        SmaltiError: the package is missing or broken, or a file of it is too large.
    """
    found = {}
    try:
        with tarfile.open(package, "r:gz") as archive:
            for member in archive:
                if member.isreg() and wanted(member.name):
                    if member.size > _LARGEST:
                        raise SmaltiError(f"{package} must hold files of at most {_LARGEST} bytes")
                    file = archive.extractfile(member)
                    found[member.name] = file.read() if file is not None else b""
    except FileNotFoundError as error:
        raise SmaltiError(f"{package} does not exist") from error
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise SmaltiError(f"{package} is broken: {quoted(str(error))}; download it again") from error
    return found


def load_renderer() -> Callable[[Icons, str], Image.Image]:
    """Return a function that renders an icon of a set: an image in mode RGBA whose longer side is 160 pixels.

    Raises:
        SmaltiError: resvg is not installed.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise SmaltiError("SVG drawings need resvg: pip install 'smalti[objects]'") from error

    def render(icons: Icons, icon: str) -> Image.Image:
        _, _, width, height = icons.box(icon)
        scale = _SIDE / max(width, height)
        try:
            data = resvg_py.svg_to_bytes(
                svg_string=icons.svg(icon),
                width=max(round(width * scale), 1),
                height=max(round(height * scale), 1),
                skip_system_fonts=True,
            )
        except ValueError as error:
            raise SmaltiError(f"{icons.name}: {quoted(icon)} is no SVG: {quoted(str(error))}") from error
        with Image.open(io.BytesIO(bytes(data)), formats=["PNG"]) as image:
            return image.convert("RGBA")

    return render
