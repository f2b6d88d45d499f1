"""The files in deploy/ name options, versions and files that there are."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smalti.cli.app import app
from smalti.serving.limits import Limits

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
SERVICE = (ROOT / "deploy" / "smalti.service").read_text(encoding="utf-8")


def check_command(words: list[str]) -> None:
    """Fail unless the command line knows all options of a call of `smalti`."""
    assert Path(words[0]).name == "smalti"
    result = CliRunner().invoke(app, [*words[1:], "--help"])
    assert result.exit_code == 0, result.output


def test_the_commands_are_known() -> None:
    entry = re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)
    start = re.search(r"^ExecStart=(.*)$", SERVICE, re.MULTILINE)
    assert entry and start
    check_command(json.loads(entry[1]))
    check_command(shlex.split(start[1]))
    with pytest.raises(AssertionError):
        check_command(["smalti", "serve", "--no-such-option"])


def test_the_image_has_the_tested_version_of_pytorch() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    tested = re.search(r"^torch==(\S+)$", constraints, re.MULTILINE)
    assert tested and set(re.findall(r"torch==(\S+)", DOCKERFILE)) == {tested[1]}


def test_the_build_sees_what_the_package_is_made_of() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    seen = {line[1:] for line in lines if line.startswith("!")}
    assert lines[0] == "*"
    assert seen == {"constraints.txt", "LICENSE", "pyproject.toml", "README.md", "smalti"}
    assert all((ROOT / name).exists() for name in seen)


def test_the_unit_waits_for_the_drain() -> None:
    wait = re.search(r"^TimeoutStopSec=(\d+)$", SERVICE, re.MULTILINE)
    assert wait and int(wait[1]) > Limits().drain_seconds + 10


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_reads_the_unit(tmp_path) -> None:
    command = tmp_path / "smalti"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit = tmp_path / "smalti.service"
    unit.write_text(SERVICE.replace("/opt/smalti/bin/smalti", str(command)))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "smalti.service" not in done.stderr, done.stderr  # other units of the machine may have faults
