from __future__ import annotations

from pathlib import Path

import pytest
from packages3d import ar, debian_package, tar

from smalti.errors import SmaltiError
from smalti.worlds.objects.preparing.debian import package_files

FILES = {"usr/a.txt": b"one", "usr/b.txt": b"two" * 1000, "etc/c": b""}


def read(path: Path) -> dict[str, bytes]:
    return dict(package_files(path, lambda name: name.startswith("usr/")))


@pytest.mark.parametrize("part", ["data.tar.xz", "data.tar.gz", "data.tar"])
def test_wanted_files_of_a_package(tmp_path: Path, part: str) -> None:
    package = debian_package(tmp_path / "p.deb", FILES, part=part)
    assert read(package) == {"usr/a.txt": b"one", "usr/b.txt": b"two" * 1000}


def test_links_are_left_out(tmp_path: Path) -> None:
    package = debian_package(tmp_path / "p.deb", FILES, {"./usr/link": "a.txt"})
    assert "usr/link" not in read(package)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "usr/../../evil"])
def test_paths_that_leave_the_package_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "p.deb"
    path.write_bytes(ar({"data.tar.xz": tar({name: b"x"})}))
    with pytest.raises(SmaltiError, match="paths inside itself"):
        read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04", "no ar archive"),
        (b"!<arch>\n", "no data.tar.xz"),
        (ar({"debian-binary": b"2.0\n"}), "no data.tar.xz"),
        (ar({"data.tar.xz": b"not xz at all"}), "is broken"),
        (ar({"data.tar.xz": tar(FILES)})[:-100], "ends inside"),
        (ar({"data.tar.gz": tar(FILES, mode="w:gz")[:60]}), "is broken"),
        (ar({"x": b"abcd"}).replace(b"4         `", b"four      `"), "has no size"),
    ],
)
def test_broken_packages_are_one_clear_error(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "p.deb"
    path.write_bytes(data)
    with pytest.raises(SmaltiError, match=message) as raised:
        read(path)
    assert len(str(raised.value).splitlines()) == 1


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(SmaltiError, match="does not exist"):
        read(tmp_path / "none.deb")
