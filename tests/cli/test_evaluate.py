"""`smalti evaluate`: what every suite reports, and what it refuses in one line."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from folders import write_tiny_model

pytest.importorskip("skimage")

import smalti  # noqa: E402
from smalti.cli import options  # noqa: E402
from smalti.cli.evaluate import evaluate  # noqa: E402
from smalti.cli.main import main  # noqa: E402
from smalti.evaluation.suite import SUITES, Suite, find_suite  # noqa: E402
from smalti.evaluation.suites.scenes.edit_pairs import KINDS as EDIT_KINDS  # noqa: E402
from smalti.evaluation.suites.scenes.edit_score import NUMBERS  # noqa: E402
from smalti.evaluation.suites.scenes.edit_selections import SELECTIONS  # noqa: E402
from smalti.generation.settings import GenerationSettings  # noqa: E402
from smalti.worlds.tasks import TAGS  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run `smalti evaluate` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["evaluate", *map(str, arguments)])
        return code, *capfd.readouterr()

    return call


def report_of(found):
    code, out, err = found
    assert (code, err) == (0, "")
    return json.loads(out)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


@pytest.mark.slow
def test_scenes(run, folder, tmp_path):
    line = ["scenes", "--model", folder, "--steps", 2, "--images", 12, "-n", 2, "--json"]
    report = report_of(run(*line, "--save", "kept"))
    assert list(report)[:11] == [*TAGS, "mean", "held_out", "seen", "images", "seconds"]
    assert report["images"] == 12 and report["settings"]["num_inference_steps"] == 2
    assert (report["suite"], report["model"], report["mode"]) == ("scenes", "tiny", "float32")
    assert (report["seed"], report["lattice"], report["passes"]) == (0, 0, 2)
    assert names(tmp_path / "kept") == [f"{index:05d}" for index in range(6)]
    assert names(tmp_path / "kept" / "00005" / "samples") == ["0000.png", "0001.png"]
    # What is kept scores the same, and another batch size draws the same.
    again = report_of(run("scenes", "--folder", "kept", "--json"))
    assert [again[key] for key in list(report)[:10]] == [report[key] for key in list(report)[:10]]
    assert again["folder"] == "kept" and "model" not in again
    run(*line, "--save", "again", "--batch-size", 3)
    for path in (tmp_path / "kept").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "kept")).read_bytes()


@pytest.mark.slow
def test_controls_of_scenes(run):
    assert report_of(run("scenes", "--ground-truth", "--images", 60, "--json"))["mean"] > 0.95
    assert report_of(run("scenes", "--shuffled", "--images", 60, "--json"))["mean"] < 0.2
    code, out, _ = run("scenes", "--ground-truth", "--count", 6)
    assert code == 0 and [line.split()[0] for line in out.splitlines()][:6] == list(TAGS)
    assert re.search(r"^ +mean  1\.0$", out, re.MULTILINE) and re.search(r"^ +seconds  ", out, re.MULTILINE)


@pytest.mark.slow
def test_ground_truth_through_the_bundled_tokenizer(run):
    report = report_of(run("scenes:lattice=8", "--ground-truth", "--tokenized", "--images", 12, "--json"))
    assert report["images"] == 12 and report["lattice"] == 8 and report["mean"] >= 0.9
    assert report["survived"] >= 0.9
    assert report["model"] == "scenes" and "settings" not in report
    assert report["controls"] == ["ground_truth", "tokenized"]


@pytest.mark.slow
def test_what_is_wrong_with_a_folder_is_named(run, tmp_path):
    run("scenes", "--ground-truth", "--images", 6, "--save", "kept")
    shutil.copy(__file__, tmp_path / "kept" / "00002" / "samples" / "0000.png")
    code, out, err = run("scenes", "--folder", "kept")
    assert (code, out) == (2, "") and "00002/samples/0000.png is not a readable image" in err


@pytest.mark.slow
def test_edits(run, folder, tmp_path):
    line = ["edits", "--model", folder, "--steps", 2, "--images", 5, "--json"]
    report = report_of(run(*line, "--save", "kept"))
    assert list(report)[:4] == list(SELECTIONS) and report["images"] == 5 and report["lattice"] == 8
    for name in SELECTIONS:
        assert list(report[name]) == [*NUMBERS, "by_kind"]
        assert list(report[name]["by_kind"]) == list(EDIT_KINDS)
        assert report[name]["tokens_kept"] == 1 and 0 <= report[name]["iou"] <= 1
    assert report["true_mask"]["iou"] == 1 and report["redraw_all"]["redrawn"] == 1
    assert report["redraw_all"]["iou"] == pytest.approx(report["true_mask"]["changed"], abs=1e-4)
    assert report["random_share"]["redrawn"] == report["automatic"]["redrawn"]
    written = [f"{name}{end}" for name in SELECTIONS for end in (".png", "-chosen.png")]
    assert names(tmp_path / "kept" / "00003") == sorted(["before.png", "truth.png", "edit.json", *written])
    # The same seed gives the same numbers, whatever else is measured beside them.
    again = report_of(run(*line, "--set", "selections=true_mask+automatic"))
    assert again["automatic"] == report["automatic"] and again["true_mask"] == report["true_mask"]
    assert again["selections"] == "true_mask+automatic"


@pytest.mark.slow
def test_distance(run, folder):
    line = ["distance", "--model", folder, "--steps", 2, "--images", 16, "--set", "scenes=30"]
    report = report_of(run(*line, "--json"))
    assert {"distance", "floor", "tokenizer", "images", "scenes", "lattice", "seed"} <= set(report)
    assert (report["images"], report["scenes"], report["lattice"], report["passes"]) == (16, 30, 8, 2)
    assert report["settings"]["num_inference_steps"] == 2 and report["model"] == "tiny"
    # Random weights draw nothing that looks like a scene, and their tokenizer loses everything.
    assert report["distance"] > 2 * report["floor"] > 0 and report["tokenizer"] > 2 * report["floor"]
    again = report_of(run(*line, "--json", "--batch-size", 4))
    distances = ("distance", "floor", "tokenizer")
    assert [again[name] for name in distances] == [report[name] for name in distances]
    other = report_of(run(*line, "--json", "--set", "lattice=0", "--seed", 1))
    assert other["floor"] != report["floor"] and other["distance"] != report["distance"]
    code, out, _ = run(*line)
    assert code == 0 and [row.split()[0] for row in out.splitlines()][-1] == "seconds"
    assert "real scenes in their place" in out


@pytest.mark.slow
def test_contrast(run):
    report = report_of(run("contrast", "--images", 1, "--json"))
    assert list(report["kinds"])[:2] == ["shape", "color"] and report["images"] == 1
    assert all(0 <= row["right"] <= 1 for kind in report["kinds"].values() for row in kind.values())
    assert list(report["kinds"]["shape"]) == ["1.0", "0.98", "0.95", "0.9", "0.8"]
    assert report["mode"] == "float32" and "settings" not in report


@pytest.mark.slow
def test_tokenizer(run, folder):
    line = ["tokenizer:size=64", "--images", 6]
    report = report_of(run(*line, "--model", folder, "--json"))
    numbers = ["psnr", "psnr_pooled", "codes_used", "perplexity", "ssim", "codebook_size", "images"]
    assert list(report)[:7] == numbers and 0 < report["ssim"] < 1
    assert report["codebook_size"] == 64 and report["images"] == 6
    # The mean of logarithms is above the logarithm of the mean.
    assert 0 < report["psnr_pooled"] < report["psnr"] < 30 and 1 / 64 <= report["codes_used"] <= 1
    # The image tokenizer alone is the same; other scenes are not.
    alone = report_of(run(*line, "--model", folder / "vq", "--json"))
    assert [alone[name] for name in numbers] == [report[name] for name in numbers]
    assert report_of(run(*line, "--model", folder, "--seed", 1, "--json"))["psnr"] != report["psnr"]
    code, out, _ = run(*line, "--model", folder)
    assert code == 0 and [row.split()[0] for row in out.splitlines()] == [*numbers, "seconds"]


@dataclass(frozen=True)
class Redness(Suite):
    """Measure how red images are."""

    power: float = 1.0

    def prompts(self, count, seed):
        return [{"prompt": "a red circle"}] * count

    def score(self, prompt, sample):
        return [float(np.asarray(image)[..., 0].mean() ** self.power) for image in sample]

    def summarize(self, rows):
        return {"redness": round(float(np.mean(rows)), 3)}


@pytest.mark.slow
def test_a_suite_from_outside(run, folder, monkeypatch, tmp_path):
    monkeypatch.setitem(SUITES, "redness", Redness)
    line = ["redness", "--model", folder, "--steps", 1, "--images", 4, "-n", 2, "--set", "power=0.5"]
    report = report_of(run(*line, "--save", "kept", "--json"))
    assert list(report)[:5] == ["redness", "images", "seconds", "suite", "power"]
    assert report["images"] == 4 and report["power"] == 0.5 and report["passes"] == 1
    assert names(tmp_path / "kept" / "00001" / "samples") == ["0000.png", "0001.png"]
    again = report_of(run("redness:power=0.5", "--folder", "kept", "--shuffled", "--json"))
    assert again["redness"] == report["redness"] and again["controls"] == ["shuffled"]
    code, out, _ = run("redness:0.5", "--folder", "kept")
    assert code == 0 and out.splitlines()[0].split() == ["redness", str(report["redness"])]
    code, out, _ = run("list")
    assert code == 0 and "redness:power=1.0\n    Measure how red images are." in out
    code, out, err = run("redness", "--ground-truth")
    assert (code, out) == (2, "") and "--ground-truth cannot be used with the suite 'redness'" in err


def test_every_setting_is_an_option():
    """Every way of loading a model is one, too."""
    loading = inspect.signature(smalti.load).parameters.keys() - {"revision", "local_files_only"}
    wanted = {*GenerationSettings().to_dict(), "preset", *loading, "hub_revision"}
    assert wanted <= set(inspect.signature(evaluate).parameters)
    assert options.option_name("num_inference_steps") == "--steps"


BAD_LINES = {
    "Missing argument 'SUITE'": [],
    "suite must be 'scenes' or 'objects'": ["lists"],
    "--images must be a whole number from 6 to 100000, not 5": ["scenes", "--images", 5],
    "--images must be a whole number from 12 to 100000, not 11": ["scenes", "--images", 11, "-n", 2],
    "--seed must be": ["edits", "--seed", -1],
    "none is not a folder": ["scenes", "--folder", "none"],
    "--tokenized needs --ground-truth": ["scenes", "--tokenized"],
    "suite 'scenes': lattice must be 0 or a multiple of 8 up to 65536, not 12": [
        "scenes",
        "--set",
        "lattice=12",
    ],
    "tokenizer': world must be": ["tokenizer", "--set", "world=mars"],
    "nowhere' does not exist; `smalti prepare objects": [
        *("tokenizer", "--set", "world=objects", "--set", "archive=nowhere", "--model", "MODEL"),
    ],
    "prompts.jsonl": ["scenes", "--ground-truth", "--prompts", "prompts.jsonl"],
    "--folder has prompts of its own": ["scenes", "--folder", ".", "--prompts", "prompts.jsonl"],
    "--prompts cannot be used with the suite 'edits'": ["edits", "--prompts", "prompts.jsonl"],
    "--set must be NAME=VALUE, not 'lattice'": ["scenes", "--set", "lattice"],
    "suite 'edits' cannot have 'ways=all'; its parameters are selections": ["edits:ways=all"],
    "leave out --ground-truth and --save": ["scenes", "--folder", ".", "--ground-truth"],
    "--model has no effect on what is measured here: leave out --model": [
        *("scenes", "--shuffled", "--model", "MODEL"),
    ],
    "--steps has no effect": ["contrast", "--steps", 4],
    "--dtype has no effect": ["tokenizer", "--dtype", "bfloat16"],
    "leave out --shuffled": ["scenes", "--shuffled", "--save", "x"],
    "--folder cannot be used with the suite 'edits'": ["edits", "--folder", "."],
    "--temperature must be a finite number": ["distance", "--temperature", -1],
    "--height must be a multiple of 16 pixels, not 72": ["distance", "--model", "MODEL", "--height", 72],
    "--height and width must be the same, not 64 and 128": ["edits", "--model", "MODEL", "--width", 128],
    "sides must be positive multiples of 8 pixels": [
        *("tokenizer:size=20", "--images", 1, "--model", "MODEL"),
    ],
    "--save cannot be written: /proc/x: No such file": ["edits", "--save", "/proc/x"],
    "model must be a folder that exists": ["tokenizer", "--model", "none"],
}


@pytest.mark.parametrize("expected", BAD_LINES)
def test_bad_input_is_one_line_and_exit_code_2(run, folder, tmp_path, expected):
    code, out, err = run(*(folder if part == "MODEL" else part for part in BAD_LINES[expected]))
    assert (code, out) == (2, "")
    assert err.startswith("smalti: ") and err.count("\n") == 1
    assert expected in err
    assert names(tmp_path) == []


@pytest.mark.slow
def test_a_missing_scikit_image_leaves_the_other_suites():
    code = (
        "import sys; sys.modules['skimage'] = None; from smalti.cli.main import main;"
        "sys.exit(main(['evaluate', 'list']) or (main(['evaluate', 'edits']) != 2))"
    )
    root = Path(smalti.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "scenes\n    evaluation needs scikit-image: pip install 'smalti[evaluate]'" in done.stdout
    assert "tokenizer:size=256" in done.stdout and "distance:scenes=2000" in done.stdout
    assert done.stderr == "smalti: evaluation needs scikit-image: pip install 'smalti[evaluate]'\n"


def test_a_suite_measures_the_model_of_its_world():
    models = {
        name: find_suite(name).model for name in ("scenes", "objects", "tokenizer", "tokenizer:world=objects")
    }
    assert list(models.values()) == ["scenes", "objects", "scenes", "objects"]
