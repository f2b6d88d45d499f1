"""`smalti prepare objects`: what it prints, its exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import sprite_packages

from smalti.cli.main import main
from smalti.worlds.objects.preparing import record

pytest.importorskip("resvg_py")


@pytest.fixture
def run(tmp_path: Path, monkeypatch, capfd):
    """Run the command with tiny packages in an empty folder: exit code, stdout, stderr."""
    files = sprite_packages.published()
    sprite_packages.write_catalogs(tmp_path / "catalogs", files)
    sprite_packages.write_clients(tmp_path / "bin", tmp_path / "published", files)
    monkeypatch.setattr(record, "CATALOGS", tmp_path / "catalogs")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    sprite_packages.forget()

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["prepare", "objects", *map(str, arguments), "--jobs", "1"])
        return code, *capfd.readouterr()

    yield call
    sprite_packages.forget()


def test_the_table(run) -> None:
    code, out, err = run("-o", "out")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == [
        "style",
        "images",
        "sprites",
        "names",
        "nouns",
        "views",
        "recolored",
        "colored",
    ]
    assert lines[2].split() == ["noto", "3", "3", "3", "3", "0", "0", "3"]
    assert lines[-3].split()[:4] == ["all", "6", "6", "4"]
    assert lines[-2:] == ["licences: MIT (5), public domain (1)", "archive: out/sprites.zip"]


def test_json(run) -> None:
    code, out, err = run("-o", "out", "--styles", "noto, twemoji", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["archive"] == "out/sprites.zip" and report["problems"] == []
    assert list(report["styles"]) == ["noto", "twemoji"] and report["styles"]["twemoji"]["sprites"] == 1
    assert report["licences"] == {"MIT": 4}


def test_problems_are_lines(run, tmp_path: Path) -> None:
    (tmp_path / "bin" / "apt-get").unlink()
    os.environ["PATH"] = f"{tmp_path / 'bin'}:/nowhere"
    (tmp_path / "bin" / "cp").symlink_to("/bin/cp")
    (tmp_path / "bin" / "tr").symlink_to("/usr/bin/tr")
    code, out, err = run("-o", "out")
    assert code == 0 and "archive: out/sprites.zip" in out
    assert err == "smalti: tiny-clipart 1:2.0-1 needs apt-get, which is not installed\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["-o", "out", "--styles", "photos"],
            "smalti: --styles must be 'fluent-3d' or 'noto' or 'twemoji' or",
        ),
        (["-o", "out", "--styles", ""], "smalti: --styles must be 'fluent-3d' or"),
        (["-o", "catalogs/emoji.tsv"], "smalti: cannot write catalogs/emoji.tsv/parts: Not a directory"),
        ([], "smalti: Missing option '-o'"),
    ],
)
def test_wrong_input(run, arguments: list[str], complaint: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and err.startswith(complaint) and err.count("\n") == 1


def test_help(capfd) -> None:
    assert main(["prepare"]) in (0, 2)
    assert "objects" in "".join(capfd.readouterr())
