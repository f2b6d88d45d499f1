"""The shapes model's token grids, recorded before the code was moved into rooms: every rule, preset and size.

tests/data/grids.json holds the settings of each case, tests/data/grids.safetensors the grids in float32 on a CPU.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import smalti
from smalti.generation.settings import PRESETS
from smalti.pipeline import Pipeline
from smalti.sampling.budgets import BUDGETS
from smalti.sampling.orders import ORDERS
from smalti.sampling.refinement import REFINEMENTS
from smalti.sampling.revision import REVISIONS
from smalti.sampling.temperatures import TEMPERATURE_SCHEDULES

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "grids.json").read_text())
DRAWS = {case["key"]: case for case in CASES["draws"]}


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return smalti.load("scenes")


@pytest.fixture(scope="module")
def grids() -> dict[str, torch.Tensor]:
    return load_file(DATA / "grids.safetensors")


def _draw(pipe: Pipeline, case: dict) -> smalti.pipeline.PipelineOutput:
    settings = pipe.preset(case["preset"]).replaced(**case["settings"])
    return pipe(
        case["prompts"],
        settings=settings,
        seed=case["seed"],
        num_images_per_prompt=case["images"],
        output_type="tokens",
    )


@pytest.mark.slow
@pytest.mark.parametrize("key", DRAWS)
def test_grids_are_as_recorded(pipe, grids, key):
    result = _draw(pipe, DRAWS[key])
    assert torch.equal(result.tokens, grids[key].long()), DRAWS[key]["settings"]
    assert result.passes == DRAWS[key]["passes"]
    assert result.tokens_edited == DRAWS[key]["edited"]
    assert result.tokens_remasked == DRAWS[key]["remasked"]


@pytest.mark.slow
@pytest.mark.parametrize("edit", CASES["edits"], ids=lambda edit: edit["key"])
def test_edits_are_as_recorded(pipe, grids, edit):
    before = pipe(CASES["prompt"], seed=0)
    arguments = {name: value for name, value in edit["arguments"].items() if value is not None}
    if edit["mask"]:
        top, bottom, left, right = edit["mask"]
        mask = np.zeros((256, 256), dtype=bool)
        mask[top:bottom, left:right] = True
        arguments["mask"] = mask
    result = pipe.edit(before, seed=5, num_images_per_prompt=2, **arguments)
    assert torch.equal(result.region, grids[f"edit-{edit['key']}-region"])
    assert torch.equal(result.tokens, grids[f"edit-{edit['key']}"].long())


@pytest.mark.slow
def test_an_edit_of_pixels_is_as_recorded(pipe, grids):
    before = Image.fromarray(np.array(pipe(CASES["prompt"], seed=0).images[0]))
    result = pipe.edit(before, "a green circle left of a blue square", seed=5)
    assert torch.equal(result.tokens, grids["edit-pixels"].long())


def test_every_rule_and_preset_is_recorded():
    def named(setting: str) -> set[str]:
        return {str(case["settings"].get(setting, "none")).split(":")[0] for case in CASES["draws"]}

    # No second model is bundled for the budgets that ask one.
    budgets = {name for name, budget in BUDGETS.items() if not budget.verifies}
    assert set(ORDERS) <= named("order") and budgets <= named("budget")
    assert set(REVISIONS) <= named("revision") and set(REFINEMENTS) <= named("refinement")
    assert set(TEMPERATURE_SCHEDULES) <= named("temperature_schedule")
    assert set(PRESETS) <= {case["preset"] for case in CASES["draws"]}
