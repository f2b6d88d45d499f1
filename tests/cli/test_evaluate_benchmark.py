"""`smalti evaluate` of published benchmarks: subsets, reports, and the official detector's results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_runs import Redness, write_prompts
from folders import write_tiny_model
from PIL import Image

from smalti.cli.evaluate import _subset
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.evaluation.folder import write_sample
from smalti.evaluation.suite import SUITES


def test_a_number_takes_a_subset() -> None:
    assert _subset(["100", "file.jsonl"], None, 4) == (400, Path("file.jsonl"))
    assert _subset(["file.jsonl"], 8, 4) == (8, Path("file.jsonl"))
    assert _subset([], None, 1) == (None, None)
    for prompts, images in ((["1", "2"], None), (["a", "b"], None), (["1"], 4), (["0"], None)):
        with pytest.raises(SmaltiError, match="--prompts must be"):
            _subset(prompts, images, 1)


@pytest.mark.slow
def test_a_subset_and_its_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SUITES, "redness", Redness)
    monkeypatch.chdir(tmp_path)
    write_tiny_model(tmp_path / "tiny")
    write_prompts(tmp_path / "prompts.jsonl")
    line = [
        "evaluate",
        "redness",
        "--model",
        "./tiny",
        "--steps",
        "2",
        "--prompts",
        "prompts.jsonl",
        "--save",
        "kept",
    ]
    line += ["--prompts", "2", "-n", "2", "--report", "report.md", "--report", "report.json", "--json"]
    assert main(line) == 0
    out, err = capfd.readouterr()
    printed: dict[str, Any] = json.loads(out)
    written = json.loads((tmp_path / "report.json").read_text())
    printed.pop("seconds")
    assert err == "" and printed == written
    assert written["number_of_prompts"] == 2 and written["subset"] and written["images_per_prompt"] == 2
    assert "A subset of 2 prompts" in (tmp_path / "report.md").read_text()
    # The images are there, so the same line scores them again.
    assert main(line) == 0
    again = json.loads(capfd.readouterr().out)
    assert {name: again[name] for name in written} == written
    assert main([*line, "--seed", "9"]) == 2
    assert "holds images of another run: its seed is 0, not 9" in capfd.readouterr().err
    assert main([*line, "--report", "report.txt"]) == 2
    assert "--report must name a .json or .md file" in capfd.readouterr().err


def test_what_a_benchmark_lacks_is_said_in_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    prompt = {
        "tag": "colors",
        "prompt": "a red dog",
        "include": [{"class": "dog", "count": 1, "color": "red"}],
    }
    write_sample("drawn", 0, prompt, [Image.new("RGB", (8, 8))])
    (tmp_path / "drawn" / "config.json").write_text("{}")
    for more, message in (
        ([], "--prompts must name the benchmark's file of prompts"),
        (["--set", f"results={tmp_path / 'none'}"], "none does not exist"),
        (
            ["--folder", "drawn"],
            "detector must be a folder with config.json or a hub id such as facebook/mask2former",
        ),
        (
            ["--folder", "drawn", "--set", "detector=drawn"],
            "clip must be a folder with config.json or a hub id",
        ),
        (["--ground-truth"], "--ground-truth cannot be used with the suite 'geneval'"),
    ):
        assert main(["evaluate", "geneval", *more]) == 2
        out, err = capfd.readouterr()
        assert out == "" and message in err and len(err.splitlines()) == 1
