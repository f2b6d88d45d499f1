"""Every example runs as a stranger runs it, and leaves what it promises."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from smalti.objective.masking import MASKINGS
from smalti.sampling.budgets import BUDGETS
from smalti.sampling.orders import ORDERS

EXAMPLES = Path(__file__).parents[1] / "examples"
LEFT = {
    "draw": [
        "a-red-circle-left-of-a-blue-square.png",
        "three-blue-stars.png",
        "other-settings.png",
        "step-by-step.png",
        "unmasking.gif",
    ],
    "edit": [
        "before.png",
        "recoloured.png",
        "selected-tokens.png",
        "reshaped.png",
        "removed.png",
        "wider.png",
        "variation.png",
    ],
    "my_order": ["three-blue-stars.png", "log.jsonl", "model/config.json"],
    "finetune_folder": ["flag.png", "log.jsonl", "model/config.json", "images/0.png", "images/0.txt"],
    "gce_in_my_model": ["losses.json", "model.safetensors"],
}


@pytest.fixture(autouse=True)
def same_rules_afterwards():
    before = [(table, dict(table)) for table in (ORDERS, BUDGETS, MASKINGS)]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


def run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "out", *more])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return folder / "out"


def test_every_example_is_described_and_tested():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert scripts == set(LEFT)
    assert all(f"[{name}.py]({name}.py)" in readme for name in scripts)


@pytest.mark.slow
@pytest.mark.parametrize("name", LEFT)
def test_an_example_leaves_what_it_promises(name, tmp_path, monkeypatch):
    out = run(name, tmp_path, monkeypatch)
    assert {file for file in LEFT[name] if not (out / file).is_file()} == set()
    for file in LEFT[name]:
        if file.endswith((".png", ".gif")):
            with Image.open(out / file) as image:
                image.load()
                assert len(image.convert("RGB").getcolors(2**20)) > 1
    # It writes into its folder alone.
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_fine_tuning_reads_a_folder_that_is_given(tmp_path, monkeypatch):
    images = tmp_path / "mine"
    images.mkdir()
    Image.new("RGB", (300, 200), "teal").save(images / "teal.jpg")
    (images / "teal.txt").write_text("a teal wall")
    out = run("finetune_folder", tmp_path, monkeypatch, "mine")
    assert (out / "flag.png").is_file() and not (out / "images").exists()
    assert "teal" in (out / "model" / "words.txt").read_text().split()


@pytest.mark.slow
def test_grouped_cross_entropy_falls(tmp_path, monkeypatch):
    losses = json.loads((run("gce_in_my_model", tmp_path, monkeypatch) / "losses.json").read_text())
    assert losses[-1] < losses[0] / 4
