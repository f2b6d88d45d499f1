"""Processes of a training: torchrun's or our own, one that dies, one that differs, what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from trainings import is_message, losses

from smalti.training.distribution import code_version
from smalti.training.state import latest_checkpoint

pytestmark = pytest.mark.slow

LONG = [
    "loop.steps=100000",
    "loop.batch_size=2",
    "loop.accumulate=2",
    "loop.checkpoint_every=2",
    "loop.log_every=1",
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]


def start(*command: str, **variables: str) -> subprocess.Popen:
    # Its own session, so that no process survives the test.
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **variables},
    )


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen]]:
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def children(pid: int) -> list[int]:
    """The training's processes below a launcher."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == pid and b"resource_tracker" not in command:
                found.append(int(folder.name))
    return sorted(found)


def wait_for_checkpoint(process: subprocess.Popen, run: str) -> None:
    deadline = time.monotonic() + 240
    while latest_checkpoint(Path(run)) is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def lines_of(process: subprocess.Popen) -> list[str]:
    """What a training said itself, without the launcher's log and progress bars."""
    _, errors = process.communicate(timeout=240)
    return [line for line in errors.replace("\r", "\n").splitlines() if is_message(line)]


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize(("launcher", "victim"), [("own", 0), ("torchrun", 1)])
def test_a_process_that_is_killed_ends_the_others_in_one_line(
    workspace: Path, processes: list[subprocess.Popen], launcher: str, victim: int
) -> None:
    train = ["train", "denoiser.yaml", *LONG, "output=killed", "distribution.strategy=fsdp"]
    own = [sys.executable, "-m", "smalti", *train, "loop.processes=2"]
    process = start(*(own if launcher == "own" else [*TORCHRUN, "smalti", *train]))
    processes.append(process)
    wait_for_checkpoint(process, "killed")
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[victim], signal.SIGKILL)
    killed = time.monotonic()
    said = lines_of(process)
    assert time.monotonic() - killed < 30
    assert process.returncode not in (0, None)
    if launcher == "own" or said:  # torchrun may end the others before they notice
        assert len(said) == 1 and "ended early" in said[0] and "saved before is complete" in said[0], said
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    checkpoint = latest_checkpoint(Path("killed"))
    assert checkpoint is not None and (checkpoint / "state.json").exists()
    if launcher == "torchrun":
        return
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    again = start(*own, f"loop.steps={step + 2}")
    processes.append(again)
    assert lines_of(again) == [] and again.returncode == 0
    assert losses("killed")[-1][0] == step + 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells processes that their launcher is gone")
def test_a_launcher_that_is_killed_leaves_no_process_behind(
    workspace: Path, processes: list[subprocess.Popen]
) -> None:
    command = [sys.executable, "-m", "smalti", "train", "denoiser.yaml", *LONG, "output=alone"]
    process = start(*command, "loop.processes=2")
    processes.append(process)
    wait_for_checkpoint(process, "alone")
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate(timeout=30)  # until the last process has closed its end
    deadline = time.monotonic() + 10
    while [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    checkpoint = latest_checkpoint(Path("alone"))
    assert checkpoint is not None and (checkpoint / "state.json").exists()


def test_torchrun_and_our_own_processes_take_the_same_steps(
    workspace: Path, processes: list[subprocess.Popen]
) -> None:
    short = ["loop.steps=3", "loop.batch_size=2", "loop.accumulate=2", "loop.precision=float32"]
    train = ["train", "denoiser.yaml", *short]
    for command in (
        [*TORCHRUN, "smalti", *train, "output=torchrun"],
        [sys.executable, "-m", "smalti", *train, "output=own", "loop.processes=2"],
    ):
        processes.append(start(*command))
        assert lines_of(processes[-1]) == [] and processes[-1].returncode == 0
    assert losses("torchrun") == losses("own")


def test_a_wrong_folder_is_one_line_from_one_process(
    workspace: Path, processes: list[subprocess.Popen]
) -> None:
    processes.append(start(*TORCHRUN, "smalti", "train", "denoiser.yaml", "model.hidden_size=32"))
    (line,) = lines_of(processes[-1])
    assert "model.hidden_size must stay 16, not 32" in line


def test_two_versions_of_the_code_are_one_line(workspace: Path, processes: list[subprocess.Popen]) -> None:
    code = (
        "import os, sys, smalti.training.launching as launching\n"
        "from smalti.cli.main import main\n"
        "launching.code_version = lambda: 'process ' + os.environ['RANK']\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    Path("differs.py").write_text(code)
    processes.append(start(*TORCHRUN[:-1], "differs.py", "train", "denoiser.yaml", "output=differs"))
    (line,) = lines_of(processes[-1])
    assert "process 1 of the training has another version of the code than process 0" in line
    assert code_version() == code_version() and "smalti" in code_version()
