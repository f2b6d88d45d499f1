"""`smalti tokenize` and `smalti pack`: any number of processes, a kill, a full disk, what is wrong in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trainings import is_message

from smalti.cli.main import main
from smalti.data import encoding
from smalti.data.tokens import TokenShards

pytestmark = pytest.mark.slow

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
# Shards of three images; with SLOW in the environment each image takes a while.
SMALL = """
import os, sys, time
from smalti.data import encoding, sources
from smalti.cli.main import main
from smalti.training import encoding as driver
encoding.SHARD_IMAGES = 3
if "RANK" in os.environ:
    open("pid-" + os.environ["RANK"], "w").write(str(os.getpid()))
read = driver.read_image
def slowly(source, index):
    time.sleep(float(os.environ.get("SLOW", "0")))
    return read(source, index)
driver.read_image = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def images(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    folder = workspace / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(20):
        size = [(32, 32), (32, 70)][number % 2]
        Image.fromarray(random.integers(0, 256, (*size, 3)).astype(np.uint8)).save(
            folder / f"{number:02d}.png"
        )
        (folder / f"{number:02d}.txt").write_text(f"image {number}")
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:2000])
    (workspace / "small.py").write_text(SMALL)
    monkeypatch.setattr(encoding, "SHARD_IMAGES", 3)
    return ["tokenize", "images", "size=32", "buckets={step: 16}", "--tokenizer", "tokenizer/model", "-o"]


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.*") if path.suffix != ".lock"}


def lines(process: subprocess.Popen) -> list[str]:
    _, errors = process.communicate(timeout=240)
    return [line for line in errors.replace("\r", "\n").splitlines() if is_message(line)]


def start(*command: str, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **variables},
    )


def test_processes_write_what_one_writes_also_after_a_kill(
    images: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main([*images, "alone"]) == 0
    said = capsys.readouterr()
    assert said.out == "alone: 19 images (10 of 4×4, 9 of 4×8 tokens)\n" or "19 images" in said.out
    assert "skipping images/07.png" in said.err and "1 of the 20 images were skipped" in said.err
    assert "width×height  images" in said.err
    process = start(*TORCHRUN, "small.py", *images, "killed", SLOW="0.5")
    deadline = time.monotonic() + 200
    while len(list(Path("killed").glob("shard-*"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for number in range(2):
        os.kill(int(Path(f"pid-{number}").read_text()), signal.SIGKILL)
    process.communicate()
    left = contents("killed")
    assert 2 <= sum(name.startswith("shard-") for name in left) < 7 and "tokens.json" not in left
    assert main([*images, "killed"]) == 0
    assert contents("killed") == contents("alone")
    process = start(*TORCHRUN, "small.py", *images, "two", "--json")
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert json.loads(out)["images"] == 19 and errors.count("skipping images/07.png") == 1
    assert contents("two") == contents("alone")
    assert [TokenShards("two").name(row) for row in (0, 7, 18)] == [
        f"images/{name}.png" for name in ("00", "08", "19")
    ]


def test_a_process_that_fails_ends_the_others_in_one_line(images: list[str]) -> None:
    code = (
        Path("small.py")
        .read_text()
        .replace(
            "encoding.SHARD_IMAGES = 3",
            "encoding.SHARD_IMAGES = 3\nreal = encoding.write_arrays\n"
            "def full(path, *rest):\n"
            "    from smalti.errors import SmaltiError\n"
            "    if path.name == 'shard-00003.safetensors':\n"
            "        raise SmaltiError(f'cannot write {path}: No space left on device')\n"
            "    return real(path, *rest)\n"
            "encoding.write_arrays = full",
        )
    )
    Path("full.py").write_text(code)
    started = time.monotonic()
    process = start(*TORCHRUN, "full.py", *images, "full")
    said = [line for line in lines(process) if "skipp" not in line]
    assert process.returncode != 0 and time.monotonic() - started < 120
    assert said == ["smalti: cannot write full/shard-00003.safetensors: No space left on device"]
    assert "shard-00001.safetensors" in os.listdir("full")
    assert main([*images, "full"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["images", "size=33"], "sides of images must be multiples of the tokenizer's 8, not 33"),
        (["images", "size=32", "crop=left"], "data.crop: "),
        (["images", "size=32", "sizes=32"], "unknown key data.sizes; known here: kind, path, size"),
        (["images", "size"], "override must be key=value, not 'size'"),
        (["scenes", "size=32"], "--samples must be given for scenes, which are endless"),
        (["images", "size=32", "--samples", "0"], "samples: "),
        (["images", "size=32", "--tokenizer", "nowhere"], "tokenizer: model folder nowhere does not exist"),
        (["images", "size=32", "--processes", "9" * 20], "loop.processes: "),
        (["images", "size=32", "flips=true"], "tokens holds a cache of other images: its data differ"),
        (["bare", "size=32"], "bare/a.png has no caption"),
        (["empty"], "empty has no readable image"),
    ],
)
def test_what_is_wrong_is_one_line(
    images: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    for name in ("bare", "empty"):
        Path(name).mkdir()
    Image.new("RGB", (32, 32)).save("bare/a.png")
    output = ["-o", "tokens"]
    if "flips=true" in arguments:
        assert main(["tokenize", "images", "size=32", "--tokenizer", "tokenizer/model", *output]) == 0
        capsys.readouterr()
    tokenizer = [] if "--tokenizer" in arguments else ["--tokenizer", "tokenizer/model"]
    assert main(["tokenize", *arguments, *tokenizer, *output]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and len(line) < 320


def test_a_packed_folder_gives_the_same_tokens(images: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["pack", "images", "-o", "tars", "--per-tar", "6"]) == 0
    assert capsys.readouterr().out.startswith("tars: 4 tars, ")
    of_tars = ["tokenize", "tars", *images[2:]]
    assert main([*of_tars, "of-tars"]) == main([*images, "of-folder"]) == 0
    ours, theirs = TokenShards("of-tars"), TokenShards("of-folder")
    assert len(ours) == len(theirs) == 19
    for row in range(19):
        assert (ours.tokens(row)[0] == theirs.tokens(row)[0]).all()
        assert ours.captions_of(row) == theirs.captions_of(row)
    Path("tars/00002.tar").write_bytes(Path("tars/00002.tar").read_bytes()[:3000])
    capsys.readouterr()
    assert main([*of_tars, "again"]) == 2
    assert "00002.index.safetensors does not fit 00002.tar" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--samples", "--per-tar"])
@pytest.mark.parametrize("value", ["0", "-1", "9" * 20])
def test_counts_of_tars_are_checked(
    images: list[str], option: str, value: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["pack", "images", "-o", "tars", option, value]) == 2
    error = capsys.readouterr().err
    assert option in error and error.count("\n") == 1 and not Path("tars").exists()
