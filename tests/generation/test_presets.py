"""Presets: what they set, whose settings win, and what is refused."""

from __future__ import annotations

import json

import pytest
from folders import write_tiny_model

import smalti
from smalti import SmaltiError
from smalti.cli.main import main

PROMPT = "a red circle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def with_config(folder, tmp_path):
    """Load the tiny model with entries of its config.json replaced."""

    def load(**entries):
        copy = tmp_path / "model"
        copy.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if path.name != "config.json" and not (copy / path.name).exists():
                (copy / path.name).symlink_to(path)
        config = json.loads((folder / "config.json").read_text()) | entries
        (copy / "config.json").write_text(json.dumps(config))
        return smalti.load(copy)

    return load


def test_a_model_without_settings_gets_those_of_the_release(with_config):
    pipe = with_config(sampling={})
    steps = {name: pipe.preset(name).num_inference_steps for name in ("fast", "balanced", "quality")}
    assert steps == {"fast": 8, "balanced": 20, "quality": 64}
    quality = pipe.preset("quality")
    assert (quality.guidance_scale, quality.revision, quality.temperature) == (5.0, "threshold:0.6", 0.86)
    assert pipe.preset(None) == pipe.settings


def test_a_model_keeps_its_own_settings_and_may_have_its_own_presets(with_config):
    pipe = with_config(
        sampling={"temperature": 0.5}, presets={"fast": {"num_inference_steps": 4, "budget": "shift:9"}}
    )
    assert pipe.preset("quality") == pipe.settings.replaced(num_inference_steps=64)
    fast = pipe.preset("fast")
    assert (fast.num_inference_steps, fast.budget, fast.temperature) == (4, "shift:9", 0.5)


def test_what_is_named_beside_a_preset_wins(with_config):
    result = with_config()(PROMPT, seed=0, preset="fast", guidance_scale=2.0, output_type="tokens")
    assert result.settings.num_inference_steps == 8 and result.settings.guidance_scale == 2.0


def test_wrong_presets_name_themselves(with_config, folder, capsys):
    with pytest.raises(SmaltiError, match="preset must be 'fast' or 'balanced' or 'quality', not 'best'"):
        with_config()(PROMPT, preset="best")
    with pytest.raises(SmaltiError, match="presets in the model's config.json: unknown setting 'stepz'"):
        with_config(presets={"fast": {"stepz": 1}}).preset("fast")
    with pytest.raises(SmaltiError, match="presets must be an object of objects"):
        with_config(presets=[1])
    assert main(["generate", PROMPT, "-o", "a.png", "--preset", "best", "--model", str(folder)]) == 2
    assert "--preset must be" in capsys.readouterr().err


def test_on_the_command_line(folder, capsys, tmp_path):
    arguments = [
        "--preset",
        "fast",
        "--save-tokens",
        str(tmp_path / "t.npy"),
        "--json",
        "--model",
        str(folder),
    ]
    assert main(["generate", PROMPT, *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["num_inference_steps"] == 8
