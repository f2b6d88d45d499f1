"""Tiny packages of drawings, catalogues for them, and clients that hand them out in place of npm and apt-get."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from smalti.worlds.objects.preparing.emoji import emoji_entries
from smalti.worlds.objects.preparing.nouns import kinds
from smalti.worlds.objects.preparing.packages import packages

# Colours of the drawings by entry. Two things are alike in style noto.
ICONS = {"apple": "#dc2028", "crab": "#e01c24", "pear": "#189840", "second-pear": "#189840", "sky": "#1c58dc"}
EMOJI = """\
name	noun	entry	fluent-3d	noto	twemoji
apple	=	apple	1f34e	=	=
pear	=	pear		= second-pear
crab	=	crab		=
"""
NOUNS = "fruit, food\tapple; pear\nsea creature, animal\tcrab\n"
CLIPART = {"entry": "food/plum.png", "name": "plum", "noun": "plum", "licence": "public domain"}

# A client that copies the package from a folder, and notes that it was called.
_CLIENT = """\
#!/bin/sh
echo "{program} $*" >> "{log}"
name=$(echo "$2" | tr '@/=:' '____')
if [ ! -f "{source}/$name" ]; then
    echo "W: a warning" >&2
    echo "{complaint}" >&2
    exit 1
fi
cp "{source}/$name" "./download{suffix}"
"""


def icon_set(icons: Mapping[str, str] = ICONS) -> bytes:
    """Return an npm package with icons: squares in colours, with a margin."""
    body = '<rect x="4" y="4" width="24" height="{height}" fill="{color}"/>'
    entries = {
        name: {"body": body.format(color=color, height=24 if name == "apple" else 16)}
        for name, color in icons.items()
    }
    value = {"icons": entries, "aliases": {"second-apple": {"parent": "apple"}}, "width": 32, "height": 32}
    return tarball({"package/icons.json": json.dumps(value).encode()})


def webp_set() -> bytes:
    """Return an npm package with one WebP file."""
    return tarball({"package/assets/1f34e.webp": encoded("WEBP", lossless=True)})


def encoded(kind: str, **options: object) -> bytes:
    """Return an image file of a red square with a margin."""
    image = Image.new("RGBA", (256, 256))
    image.paste((220, 32, 40, 255), (30, 30, 220, 220))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tarball(files: Mapping[str, bytes], compression: str = "gz") -> bytes:
    """Return a compressed tar archive. Equal files give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    data = buffer.getvalue()
    return lzma.compress(data) if compression == "xz" else gzip.compress(data, mtime=0)


def debian_package(files: Mapping[str, bytes]) -> bytes:
    """Return a Debian package."""
    result = b"!<arch>\n"
    for name, data in {"debian-binary": b"2.0\n", "data.tar.xz": tarball(files, "xz")}.items():
        result += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        result += data + b"\n" * (len(data) % 2)
    return result


def published() -> dict[str, bytes]:
    """Return the packages that the clients know, by style."""
    return {
        "fluent-3d": webp_set(),
        "noto": icon_set(),
        "twemoji": icon_set(),
        "clipart": debian_package({"./usr/share/openclipart/png/food/plum.png": encoded("PNG")}),
    }


def specification(style: str) -> str:
    """Return what a client is asked for."""
    return f"tiny-{style}=1:2.0-1" if style == "clipart" else f"@tiny/{style}@1.0.0"


def write_catalogs(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write catalogues for packages, with the digests of their files."""
    folder.mkdir(parents=True, exist_ok=True)
    described = []
    for style, data in files.items():
        kind = "apt" if style == "clipart" else "npm"
        name, version = specification(style).rsplit("=" if kind == "apt" else "@", 1)
        texts = {"title": f"Tiny {style}", "creator": "Somebody", "url": "https://example.org"}
        licence = "public domain" if style == "clipart" else "MIT"
        digest = hashlib.sha256(data).hexdigest()
        described.append(
            {"style": style, "kind": kind, "name": name, "version": version, "sha256": digest}
            | {"licence": licence, **texts}
        )
    (folder / "packages.json").write_text(json.dumps(described))
    (folder / "emoji.tsv").write_text(EMOJI)
    (folder / "nouns.tsv").write_text(NOUNS)
    (folder / "clipart.jsonl").write_text(json.dumps(CLIPART) + "\n")


def write_clients(folder: Path, source: Path, files: Mapping[str, bytes]) -> Path:
    """Write npm and apt-get into a folder, and the packages that they hand out into another; return their log."""
    log = folder / "calls.log"
    for path in (folder, source):
        path.mkdir(parents=True, exist_ok=True)
    for style, data in files.items():
        (source / specification(style).translate(str.maketrans("@/=:", "____"))).write_bytes(data)
    for program, suffix, complaint in (
        ("npm", ".tgz", "npm error code ENOTFOUND"),
        ("apt-get", ".deb", "E: Unable to locate package"),
    ):
        text = _CLIENT.format(program=program, log=log, source=source, suffix=suffix, complaint=complaint)
        (folder / program).write_text(text)
        (folder / program).chmod(0o755)
    log.write_text("")
    return log


def forget() -> None:
    """Forget what was read from catalogues."""
    for function in (packages, emoji_entries, kinds):
        function.cache_clear()
