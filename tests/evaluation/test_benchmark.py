"""Published benchmarks: images that a killed run left are kept, and processes share the work."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import benchmark_runs
import pytest
from benchmark_runs import PROMPTS, Redness, files, run, run_both, write_prompts
from fid_runs import write_mjhq
from folders import write_tiny_model
from ranks import run_ranks

from smalti.errors import SmaltiError
from smalti.evaluation.benchmark import PROMPTS_FILE, RUN_FILE
from smalti.evaluation.bootstrap import intervals
from smalti.evaluation.markdown import report_page
from smalti.evaluation.outcome import Evaluation
from smalti.evaluation.ranks import gather
from smalti.evaluation.reporting import write_report
from smalti.evaluation.request import Request
from smalti.evaluation.run import evaluate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    return str(write_prompts(tmp_path / "prompts.jsonl"))


def test_a_run_without_a_folder_scores_the_same(model: str, prompts: str, tmp_path: Path) -> None:
    kept = run(model, prompts, str(tmp_path / "kept"))
    assert run(model, prompts, None, batch_size=3) == kept
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        *(f"{index:05d}" for index in range(PROMPTS)),
        PROMPTS_FILE,
        RUN_FILE,
    ]
    # What is kept is read in GenEval's layout.
    again = evaluate(Redness(), Request(folder=tmp_path / "kept")).scores
    assert again == {name: kept[name] for name in again}
    assert kept["settings"]["num_inference_steps"] == 2 and kept["seed"] == 7 and len(kept["weights"]) == 16
    assert kept["images_per_prompt"] == 2 and kept["number_of_prompts"] == PROMPTS and not kept["subset"]
    assert kept["packages"]["smalti"] and kept["bootstrap"]["samples"] == 1000


@pytest.mark.slow
def test_a_killed_run_goes_on(model: str, prompts: str, tmp_path: Path) -> None:
    expected = run(model, prompts, str(tmp_path / "whole"))
    last = random.Random("killed").randrange(1, 2 * PROMPTS)
    command = [sys.executable, benchmark_runs.__file__, model, prompts, str(tmp_path / "killed"), str(last)]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests' / 'support'}"}
    assert subprocess.run(command, env=environment, timeout=120).returncode == 137
    left = files(tmp_path / "killed")
    assert sum(name.endswith(".png") and "/." not in name for name in left) == last
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("0*.png")}
    assert run(model, prompts, str(tmp_path / "killed"), batch_size=2) == expected
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    found = files(tmp_path / "killed")
    assert {name: data for name, data in found.items() if "/." not in name} == files(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_give_the_report_of_one(model: str, prompts: str, tmp_path: Path) -> None:
    reference = str(write_mjhq(tmp_path / "mjhq"))
    expected = run_both(model, prompts, reference, str(tmp_path / "one"))
    reports = run_ranks(2, run_both, tmp_path, model, prompts, reference, str(tmp_path / "two"))
    assert reports == [expected, expected]
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_a_folder_that_another_process_begins_is_taken(model: str, prompts: str, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".run.smalti-abcdefgh.json").write_text("{")
    assert run(model, prompts, str(tmp_path / "begun"))


def test_folders_of_other_runs_are_refused(model: str, prompts: str, tmp_path: Path) -> None:
    run(model, prompts, str(tmp_path / "kept"))
    told = json.loads((tmp_path / "kept" / RUN_FILE).read_text())
    (tmp_path / "kept" / RUN_FILE).write_text(json.dumps({**told, "seed": 8}))
    with pytest.raises(SmaltiError, match="holds images of another run: its seed is 8, not 7"):
        run(model, prompts, str(tmp_path / "kept"))
    (tmp_path / "kept" / RUN_FILE).unlink()
    with pytest.raises(SmaltiError, match="it holds files already"):
        run(model, prompts, str(tmp_path / "kept"))
    with pytest.raises(SmaltiError, match="--prompts must name the benchmark's file"):
        evaluate(Redness(), Request(images=4, images_per_prompt=4), None)


def test_intervals_hold_the_mean_and_depend_on_the_scores_alone() -> None:
    draw = random.Random("intervals")
    groups = {
        name: [[float(draw.random() < share) for _ in range(4)] for _ in range(100)]
        for name, share in {"colors": 0.8, "position": 0.3}.items()
    }
    found = intervals(groups)
    assert found == intervals(groups) and list(found) == ["colors", "position", "mean"]
    for name, rows in groups.items():
        mean = sum(map(sum, rows)) / 400
        low, high = found[name]
        # Half of the interval is about two standard errors, 0.02 to 0.025 each.
        assert low < mean < high and 0.05 < high - low < 0.13
    # Images of a prompt that are all alike make the interval wider.
    alike = intervals({"colors": [[row[0]] * 4 for row in groups["colors"]]})["colors"]
    assert alike[1] - alike[0] > 1.5 * (found["colors"][1] - found["colors"][0])


def test_rows_are_gathered_in_order() -> None:
    assert gather([(2, {"b": 1}), (0, [True]), (1, None)]) == [[True], None, {"b": 1}]


def test_reports_are_written_in_both_forms(tmp_path: Path) -> None:
    metadata = {"suite": "redness", "seed": 7, "subset": True, "number_of_prompts": 100, "note": "a|b"}
    found = Evaluation({"mean": 0.25, "images": 4, "rows": [1]}, metadata)
    for name in ("report.md", "report.json"):
        write_report(tmp_path / name, Redness(), found)
    assert json.loads((tmp_path / "report.json").read_text()) == {**found.scores, **metadata}
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# redness\n\nA subset of 100 prompts, evenly chosen from the file.\n")
    assert "| note | a\\|b |" in page and "          mean  0.25" in page
    assert "| mean | 0.2500 | 0.2000 to 0.3000 |" in report_page(
        {}, metadata, "| mean | 0.2500 | 0.2000 to 0.3000 |"
    )
