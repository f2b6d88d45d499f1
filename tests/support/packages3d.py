"""Small packages for tests: Debian packages, and archives of models with a textured cube."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

FACES = ("1 2 3 4", "8 7 6 5", "5 6 2 1", "6 7 3 2", "7 8 4 3", "8 5 1 4")


def cube(color: str = "main") -> bytes:
    """Return an OBJ file of a cube whose faces have whole images."""
    corners = [(x, y, z) for z in (0, 1) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    lines = ["mtllib cube.mtl", *(f"v {x} {y} {z}" for x, y, z in corners)]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1", f"usemtl {color}", "s off"]
    lines += ["f " + " ".join(f"{v}/{t}" for t, v in enumerate(face.split(), 1)) for face in FACES]
    return "\n".join(lines).encode()


def materials(*statements: str) -> bytes:
    """Return an MTL file of one material."""
    return "\n".join(["newmtl main", *statements]).encode()


def picture(pixels: np.ndarray) -> bytes:
    """Return pixels as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def cube_files(*statements: str, texture: np.ndarray | None = None) -> dict[str, bytes]:
    """Return the files of a cube by their paths."""
    files = {"m/cube.obj": cube(), "m/cube.mtl": materials(*statements)}
    return files if texture is None else {**files, "m/t.png": picture(texture)}


def models_archive(files: dict[str, bytes], catalog: str) -> bytes:
    """Return an archive of models."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {"PluginFurnitureCatalog.properties": catalog.encode("latin-1"), **files}.items():
            archive.writestr(name, data)
    return file.getvalue()


def tar(files: dict[str, bytes], links: dict[str, str] | None = None, mode: str = "w:xz") -> bytes:
    """Return a tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return file.getvalue()


def ar(parts: dict[str, bytes]) -> bytes:
    """Return an ar archive."""
    found = b"!<arch>\n"
    for name, data in parts.items():
        found += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
            + data
            + b"\n" * (len(data) % 2)
        )
    return found


def debian_package(
    path: Path, files: dict[str, bytes], links: dict[str, str] | None = None, *, part: str = "data.tar.xz"
) -> Path:
    """Write a Debian package, and return its path."""
    mode = {"xz": "w:xz", "gz": "w:gz", "tar": "w"}[part.rpartition(".")[2]]
    data = tar({f"./{name}": content for name, content in files.items()}, links, mode)
    path.write_bytes(ar({"debian-binary": b"2.0\n", "control.tar.xz": tar({"./control": b"x"}), part: data}))
    return path
