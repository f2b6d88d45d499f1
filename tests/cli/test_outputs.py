"""Where a command writes: never onto another output or what it reads, and to any console."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from folders import write_tiny_model
from PIL import Image
from trainings import TOKENIZER

import smalti
from smalti.cli import output
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.storage.averaging import average_models

PROMPT = "a red circle left of a blue square"
ROOT = Path(smalti.__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).astype(np.uint8).reshape(64, 64)).save("in.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    Image.fromarray(mask).save("mask.png")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


EDIT = ["inpaint", "in.png", PROMPT, "--mask", "mask.png", "--seed", 0, "--steps", 1]


@pytest.mark.parametrize(
    "line, message",
    [
        ([*EDIT, "-o", "x.png", "--show-mask", "x.png"], "--show-mask must name another file than -o"),
        (
            [*EDIT, "-o", "x.png", "--show-mask", "./sub/../x.png"],
            "--show-mask must name another file than -o",
        ),
        (
            [*EDIT, "-o", "x.png", "-n", 2, "--show-mask", "x-1.png"],
            "--show-mask must name another file than -o",
        ),
        ([*EDIT, "-o", "mask.png"], "-o must name another file than --mask"),
        ([*EDIT, "-o", "link.png"], "-o must name another file than --mask"),
        ([*EDIT, "--show-mask", "mask.png"], "--show-mask must name another file than --mask"),
        ([*EDIT, "--show-mask", "in.png"], "--show-mask must name another file than IMAGE"),
        (
            ["generate", PROMPT, "-n", 2, "-o", "a.png", "--seed", 0],
            "-o must name another file than -o, not 'a-1.png' as well",
        ),
    ],
)
def test_two_outputs_are_two_files(run, folder, tmp_path, line, message):
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.png").symlink_to("mask.png")
    if line[0] == "generate":
        (tmp_path / "a-0.png").write_bytes(b"old")
        os.link("a-0.png", "a-1.png")
    before = contents(tmp_path)
    code, out, err = run(*line, "--model", folder)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert contents(tmp_path) == before


def test_a_result_may_replace_its_image(run, folder):
    assert run(*EDIT, "-o", "in.png", "--model", folder)[0] == 0


def test_groups_replace_no_weights(run, tmp_path):
    model = write_tiny_model(tmp_path / "m")
    before = contents(model)
    for target in (model / "model.safetensors", model / "vq" / "model.safetensors"):
        code, out, err = run("groups", model, "--groups", 4, "-o", target)
        assert (code, out) == (2, "") and "holds no code groups and would be lost" in err
    assert contents(model) == before
    for _ in range(2):  # groups may replace groups
        assert run("groups", model, "--groups", 4, "-o", model / "groups-4.safetensors")[0] == 0


def test_an_average_replaces_neither_model(run, tmp_path):
    first, second = (write_tiny_model(tmp_path / name) for name in ("a", "b"))
    before = contents(tmp_path)
    for target in (first, second, first / "vq", tmp_path / "a" / ".." / "b"):
        with pytest.raises(SmaltiError, match="folder must not be one of the two models"):
            average_models(first, second, target)
        code, _, err = run("average", first, second, "-o", target)
        assert code == 2 and "-o must not be one of the two models" in err
    assert contents(tmp_path) == before
    assert run("average", first, second, "-o", tmp_path / "c")[0] == 0


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "sub/" * 2000 + "a.png", "y" * 5000])
def test_names_that_are_too_long(run, folder, name):
    code, _, err = run("generate", PROMPT, "-o", name, "--steps", 1, "--model", folder)
    assert code == 2 and err.startswith("smalti: -o cannot be written: ") and len(err) < 300


def test_a_folder_without_rights(run, folder, monkeypatch):
    def refuse(self, *args, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_dir", refuse)
    code, _, err = run("generate", PROMPT, "-o", "closed/a.png", "--steps", 1, "--model", folder)
    assert (code, err) == (2, "smalti: -o cannot be written: closed/a.png: Permission denied\n")


def process(tmp_path: Path, line: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        ["sh", "-c", line.replace("smalti", f"{sys.executable} -m smalti")],
        capture_output=True,
        cwd=tmp_path,
        env=environment,
    )


@pytest.mark.slow
def test_a_console_that_lacks_a_character(tmp_path, folder):
    line = f'smalti generate "ein Stern ★ 🌟" -o a.png --steps 1 --json --model "{folder}"'
    for encoding in ("cp1252", "ascii", "utf-8"):
        done = process(tmp_path, line, PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout.decode(encoding))["prompts"] == ["ein Stern ★ 🌟"]
    done = process(tmp_path, "smalti generate x -o ★🌟.bmp", PYTHONIOENCODING="cp1252")
    assert done.returncode == 2 and b"\\u2605" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path, folder, closed):
    line = f'smalti generate "{PROMPT}" -o a.png --steps 1 --seed 3 --model "{folder}" --json {closed}'
    done = process(tmp_path, line)
    assert done.returncode == 0 and done.stderr == b""
    if closed == "2>&-":
        assert json.loads(done.stdout)["seeds"] == [3]
    with Image.open(tmp_path / "a.png") as image:
        image.load()
    done = process(tmp_path, f"smalti generate x -o a.bmp {closed}")
    assert done.returncode == 2 and done.stdout == b""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_streams(tmp_path, folder):
    done = process(tmp_path, "smalti --version > /dev/full")
    assert done.returncode == 2 and done.stderr == b"smalti: [Errno 28] No space left on device\n"
    assert process(tmp_path, "smalti generate x -o a.bmp 2> /dev/full").returncode == 2


@pytest.mark.parametrize(
    "arguments", [["generate", "x" * 5000, "--seed", "y" * 5000], ["z" * 5000], ["info", "z" * 5000]]
)
def test_no_line_is_longer_than_300_characters(run, arguments):
    code, _, err = run(*arguments)
    assert code == 2 and len(err) <= 300 and err.count("\n") == 1


def test_warnings_of_the_package_are_notes(tmp_path, monkeypatch, capfd):
    """A data folder's note before an error: each line starts with the program's name."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/notes.md").write_text("no image")
    data = {"kind": "folder", "path": "data", "size": 32}
    Path("config.yaml").write_text(json.dumps({**TOKENIZER, "data": data}))
    assert main(["train-tokenizer", "config.yaml"]) == 2
    first, second = capfd.readouterr().err.splitlines()
    assert first == "smalti: data: files that are not taken: 1 .md"
    assert second.startswith("smalti: data has no readable image")
    assert not [one for one in logging.getLogger("smalti").handlers if isinstance(one, output.Notes)]


@pytest.mark.parametrize(
    "line",
    [
        ["info", "9" * 5000],
        ["generate", "a cat", "-o", "a.png", "--model", "9" * 5000],
        ["groups", "9" * 5000, "--groups", "4", "-o", "a.safetensors"],
        ["average", "x/" * 3000, "y", "-o", "made"],
        ["train", "9" * 5000],
        ["generate", "a cat", "-o", "9" * 5000 + ".png"],
        ["edit", "9" * 5000, "a cat", "-o", "a.png"],
    ],
)
def test_names_of_thousands_of_letters(line, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(line) == 2
    message = capfd.readouterr().err
    assert message.startswith("smalti: ") and message.count("\n") == 1 and len(message) < 300
    assert re.search("must be|does not exist|cannot be written|cannot write|File name too long", message)


@pytest.mark.parametrize("name", ["", " "])
def test_a_blank_name_is_not_the_folder_of_the_process(run, name):
    before = sorted(os.listdir())
    code, _, error = run("generate", "a red circle", "-o", name)
    assert code == 2 and error == "smalti: Invalid value for '-o' / '--output': the name must not be blank\n"
    assert sorted(os.listdir()) == before


def test_a_suffix_alone_is_no_name(run):
    code, _, error = run("generate", "a red circle", "-o", ".png")
    assert code == 2 and error == "smalti: -o must have a name before its suffix, not '.png'\n"
