"""Seeds: every one of 63 bits is another image, and every command refuses the same others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from folders import write_tiny_model

import smalti
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.generation.seeds import image_seeds
from smalti.generation.settings import MOST_IMAGES

PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_high_bits_of_a_seed_change_the_image(folder):
    pipe = smalti.load(folder)
    seeds = [1, 1 + 2**32, 1 + 2**40, 2**63 - 1]
    tokens = pipe([PROMPT] * 4, seed=seeds, num_inference_steps=2, output_type="tokens").tokens
    assert len({tuple(grid.flatten().tolist()) for grid in tokens}) == 4
    alone = pipe(PROMPT, seed=1 + 2**32, num_inference_steps=2, output_type="tokens").tokens
    assert torch.equal(alone[0], tokens[1])
    region = [
        pipe.edit(np.zeros((64, 64), np.uint8), PROMPT, strength=0.5, seed=seed).region for seed in seeds
    ]
    assert not torch.equal(region[0], region[1])


def test_seeds_of_other_libraries():
    assert image_seeds(np.int64(7), None, 1, 2) == [7, 8]
    assert image_seeds(np.array([3, 4]), None, 1, 2) == [3, 4]
    assert all(type(number) is int for number in image_seeds(np.array([3, 4]), None, 1, 2))
    with pytest.raises(SmaltiError, match="seed must be a whole number from 0"):
        image_seeds(2**63 - 1, None, 1, 2)


@pytest.mark.parametrize("count", [MOST_IMAGES + 1, 99999999999999999999])
def test_too_many_images_are_refused_at_once(count):
    with pytest.raises(SmaltiError, match="num_images_per_prompt must be a whole number from 1 to 100000"):
        image_seeds(None, None, 1, count)


LINES = {
    "generate": ["generate", PROMPT, "-o", "a.png"],
    "edit": ["vary", "a.png", PROMPT, "-o", "b.png"],
    "groups": ["groups", "--groups", "4"],
    "scenes": ["evaluate", "scenes"],
    "contrast": ["evaluate", "contrast"],
    "edits": ["evaluate", "edits"],
}


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
@pytest.mark.parametrize("name", LINES)
def test_every_command_refuses_the_same_seeds(capsys, name, seed):
    assert main([*LINES[name], "--seed", str(seed)]) == 2
    assert f"--seed must be a whole number from 0 to {2**63 - 1}, not {seed}" in capsys.readouterr().err


@pytest.mark.parametrize("section", ["seed", "data.seed"])
@pytest.mark.parametrize("command", ["train", "train-tokenizer"])
def test_configurations_refuse_the_same_seeds(capsys, tmp_path, command, section):
    config = tmp_path / "c.yaml"
    config.write_text("output: x\nmodel: {}\nloop: {steps: 1, batch_size: 1}\ndata: {kind: scenes}\n")
    assert main([command, str(config), f"{section}={2**63}"]) == 2
    error = capsys.readouterr().err
    assert section in error and str(2**63 - 1) in error


@pytest.mark.parametrize(
    "line",
    [["generate", PROMPT, "-o", "a.png"], ["vary", "a.png", PROMPT, "-o", "b.png"], ["evaluate", "scenes"]],
    ids=["generate", "vary", "evaluate"],
)
def test_every_command_limits_its_images(capsys, line):
    assert main([*line, "-n", "99999999999999999999"]) == 2
    error = capsys.readouterr().err
    assert "must be a whole number from 1 to 100000, not 99999999999999999999" in error
