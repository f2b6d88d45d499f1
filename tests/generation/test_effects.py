"""Options without effect are named in one line on stderr, and so is a dtype that is slow here."""

from __future__ import annotations

import numpy as np
import pytest
from folders import write_tiny_model
from PIL import Image

import smalti
from smalti.cli.main import main
from smalti.common.images import save_gif
from smalti.generation.effects import without_effect
from smalti.generation.settings import GenerationSettings

PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


IDLE = {
    "--temperature has no effect with --draw argmax": ["--temperature", 0.5, "--draw", "argmax"],
    "--temperature-schedule has no effect with --draw argmax": [
        *("--temperature-schedule", "linear", "--draw", "argmax")
    ],
    "--temperature-schedule has no effect with --temperature 0": [
        *("--temperature-schedule", "shift:2", "--temperature", 0)
    ],
    "--guidance-interval has no effect with --guidance 0": ["--guidance-interval", 0, 0.5, "--guidance", 0],
    "--refinement has no effect with --budget adaptive": ["--refinement", "rare", "--budget", "adaptive:0.5"],
    "--final has no effect without --revise": ["--final", "release", "--revise", "none"],
    "--reuse-every has no effect without --reuse": ["--reuse-every", 3],
    "--reuse has no effect with --reuse-every 1": ["--reuse", "prompt", "--reuse-every", 1],
    "--guidance-passes has no effect with --guidance 0": ["--guidance-passes", "skip", "--guidance", 0],
    "--order has no effect in its schedule without a temperature": ["--order", "history:schedule=cosine"],
    "--offload layers has no effect on a CPU": ["--offload", "layers"],
}


@pytest.mark.parametrize("message", IDLE)
def test_options_without_effect_are_one_line(folder, tmp_path, monkeypatch, capfd, message):
    monkeypatch.chdir(tmp_path)
    line = ["generate", PROMPT, "-o", "a.png", "--steps", 2, "--seed", 0, "--model", folder, *IDLE[message]]
    assert main([str(part) for part in line]) == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"smalti: {message}\n")


def test_several_are_one_line(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save("a.png")
    line = ["vary", "a.png", PROMPT, "-o", "b.png", "--steps", "2", "--model", str(folder)]
    assert main([*line, "--reuse-every", "3", "--no-blend", "--no-keep-pixels"]) == 0
    expected = "--reuse-every has no effect without --reuse; --no-blend has no effect with --no-keep-pixels"
    assert capfd.readouterr().err == f"smalti: {expected}\n"


def test_settings_that_have_an_effect_are_not_named():
    given = [field for field in GenerationSettings().to_dict()]
    settings = GenerationSettings(revision="threshold:0.5", reuse="prompt", temperature_schedule="linear")
    assert without_effect(settings, given) == []
    # What the model's own settings say is nobody's request.
    assert without_effect(GenerationSettings(draw="argmax", temperature=0.5), ["draw"]) == []


def test_bfloat16_without_instructions(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    line = ["generate", PROMPT, "-o", "a.png", "--steps", "1", "--model", str(folder), "--dtype", "bfloat16"]
    for bf16 in (True, False):
        monkeypatch.setattr("smalti.common.devices.has_bf16", lambda device, bf16=bf16: bf16)
        assert main(line) == 0
        err = capfd.readouterr().err
        assert err.count("\n") == (0 if bf16 else 1)
        assert bf16 or err.startswith("smalti: this processor has no instructions for bfloat16")


@pytest.mark.parametrize("bf16", [True, False])
def test_memory_prefers_a_fast_dtype(folder, monkeypatch, bf16):
    monkeypatch.setattr("smalti.storage.loading.has_bf16", lambda device: bf16)
    pipe = smalti.load(folder, memory="2GB")
    assert str(pipe.denoiser.head.dtype) == ("torch.bfloat16" if bf16 else "torch.float32")
    assert str(pipe.components.mode) == ("bfloat16" if bf16 else "float32")
    asked = smalti.load(folder, memory="2GB", dtype="bfloat16")
    assert str(asked.denoiser.head.dtype) == "torch.bfloat16"


@pytest.mark.parametrize("pattern", [[0, 1, 2], [0, 0, 1, 1, 1, 2], [0, 0, 0], [0, 1, 1], [0]])
def test_equal_frames_last_as_long(tmp_path, pattern):
    frames = [Image.fromarray(np.full((16, 16, 3), 80 * value, np.uint8)) for value in pattern]
    save_gif(frames, tmp_path / "a.gif")
    durations = []
    with Image.open(tmp_path / "a.gif") as animation:
        for index in range(animation.n_frames):
            animation.seek(index)
            durations.append(animation.info["duration"])
    assert sum(durations) == 120 * (len(pattern) - 1) + 2000
    assert len(durations) == len(set(pattern))
