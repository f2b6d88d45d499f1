from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from smalti.errors import SmaltiError
from smalti.worlds.objects.preparing import packages as module
from smalti.worlds.objects.preparing.packages import PackageError, obtain, packages


@pytest.mark.parametrize("style", ["noto", "clipart"])
def test_a_package_is_downloaded_once(publisher, tmp_path: Path, style: str) -> None:
    package = packages()[style]
    path = obtain(package, tmp_path / "packages")
    assert path.parent == tmp_path / "packages" and os.listdir(path.parent) == [path.name]
    asked = "apt-get download tiny-clipart=1:2.0-1" if style == "clipart" else "npm pack @tiny/noto@1.0.0"
    assert [call[: len(asked)] for call in publisher.calls()] == [asked]
    assert obtain(package, tmp_path / "packages") == path
    assert publisher.calls() == []


def test_a_damaged_file_is_downloaded_again(publisher, tmp_path: Path) -> None:
    path = obtain(packages()["noto"], tmp_path)
    good = path.read_bytes()
    path.write_bytes(good[:100])
    assert obtain(packages()["noto"], tmp_path).read_bytes() == good
    assert len(publisher.calls()) == 2


def test_another_sha256_is_refused(publisher, tmp_path: Path) -> None:
    publisher.replace("noto", b"something else")
    wanted = packages()["noto"].sha256
    with pytest.raises(PackageError, match=f"@tiny/noto 1.0.0 is refused: .* must be {wanted}, not ") as info:
        obtain(packages()["noto"], tmp_path / "packages")
    assert len(str(info.value)) < 300
    assert os.listdir(tmp_path / "packages") == []


@pytest.mark.parametrize(("style", "program"), [("noto", "npm"), ("clipart", "apt-get")])
def test_a_missing_client_is_named(publisher, tmp_path: Path, monkeypatch, style: str, program: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(PackageError, match=f"tiny.* needs {program}, which is not installed"):
        obtain(packages()[style], tmp_path)


@pytest.mark.parametrize(
    ("style", "reason"), [("noto", "npm error code ENOTFOUND"), ("clipart", "E: Unable to locate package")]
)
def test_a_client_that_fails_is_quoted(publisher, tmp_path: Path, style: str, reason: str) -> None:
    publisher.withdraw(style)
    with pytest.raises(PackageError, match=f"tiny.* cannot be had: {reason}$"):
        obtain(packages()[style], tmp_path)


def test_a_folder_that_cannot_be_written(publisher, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SmaltiError, match="cannot write .*: No space left on device") as info:
        obtain(packages()["noto"], tmp_path)
    assert not isinstance(info.value, PackageError)


def test_downloads_of_killed_processes_are_deleted(publisher, tmp_path: Path) -> None:
    old, new = tmp_path / ".download-old", tmp_path / ".download-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "half.tgz").write_bytes(b"half")
    os.utime(old, (0, 0))
    obtain(packages()["noto"], tmp_path)
    assert not old.exists() and new.exists()
    shutil.rmtree(new)


def test_reasons_are_short() -> None:
    reason = module._reason("npm error " + "x" * 500, "npm")
    assert len(reason) <= 140 and reason.endswith("...")
    assert module._reason("", "npm") == "npm writes no file"
