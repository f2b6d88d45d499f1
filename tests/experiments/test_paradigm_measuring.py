"""The search, the measurements and the report of the comparison of paradigms, at a tiny size."""

from __future__ import annotations

import dataclasses
import sys

import compare_paradigms
import pytest
from paradigms import measuring
from paradigms.drawing import VARIANTS
from paradigms.measuring import prompts_for, read_rows, times_of
from paradigms.reporting import table

from smalti.worlds.tasks import TAGS


def test_searched_prompts_are_not_measured():
    searched, measured = (prompts_for(purpose, 20, 0) for purpose in ("search", "measure"))
    for prompts in (searched, measured):
        assert [prompt["tag"] for prompt in prompts] == [tag for tag in TAGS for _ in range(20)]
    assert not {one["prompt"] for one in searched} & {one["prompt"] for one in measured}


def test_times_are_medians_at_batch_one_and_at_the_best_batch():
    point = {"variant": "masked", "steps": 4, "settings": {}}
    rows = [
        {**point, "batch": batch, "turn": turn, "drawing": value, "decoding": 0.5}
        for batch, values in {1: (3.0, 1.0, 2.0), 8: (1.0, 1.5, 1.25)}.items()
        for turn, value in enumerate(values)
    ]
    found = times_of(rows, point)
    assert (found["seconds_1"], found["best_batch"], found["seconds_best"]) == (2.0, 8, 1.25)
    assert found["spread_best"] == 0.5
    assert times_of([], point) == {}


@pytest.mark.slow
def test_the_whole_comparison_continues_where_it_was(budget, tmp_path, monkeypatch, capsys):
    few = {
        "masked, edited": dataclasses.replace(VARIANTS["masked, edited"], steps=(2,), choices={}),
        "autoregressive": dataclasses.replace(VARIANTS["autoregressive"], choices={}),
        "flow, Heun": dataclasses.replace(
            VARIANTS["flow, Heun"], steps=(2,), choices={"guidance_scale": (0.0, 1.0)}
        ),
    }
    for module in (measuring, compare_paradigms):
        monkeypatch.setattr(module, "VARIANTS", few)
        monkeypatch.setattr(module, "SEARCHED_STEPS", (2, 2))
    # The scorer has tests of its own, and draws its outlines for seconds.
    monkeypatch.setattr(measuring, "score_images", lambda *_: dict.fromkeys(("mean", *TAGS), 0.25))
    monkeypatch.setattr(compare_paradigms, "DATA", budget.data)
    monkeypatch.setattr(compare_paradigms, "MODEL", budget.model)
    options = ["--images 8 --distinct 12 --batch-size 4 --seeds 0 --searched 1 --measured 1", "--batches 1"]
    arguments = f"{' '.join(options)} --repeats 1 --output {tmp_path} --set optimizer.warmup_steps=1".split()
    monkeypatch.setattr(sys, "argv", ["compare_paradigms.py", *arguments])
    compare_paradigms.main()
    rows = read_rows(tmp_path / "results.json")
    assert [row["variant"] for row in rows] == list(few)
    assert all(row["seconds_1"] > 0 and row["decoding_best"] > 0 for row in rows)
    assert (tmp_path / "results.md").read_text().startswith(table(rows))
    kept = {name: (tmp_path / f"{name}.json").read_text() for name in ("search", "quality", "speed")}
    assert len(read_rows(tmp_path / "search.json")) == 2
    monkeypatch.setattr(measuring, "draw", None)
    compare_paradigms.main()
    assert kept == {name: (tmp_path / f"{name}.json").read_text() for name in kept}
