"""Light layers: their place between passes, their training, and their files."""

from __future__ import annotations

import itertools
import json
import os

import pytest
import torch
from folders import write_tiny_model

import smalti
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.model.light import LightLayer, LightMemory
from smalti.storage.folder import save_denoiser
from smalti.storage.light import save_light, with_light
from smalti.training.light import LightTraining, train_light

PROMPTS = ["a red circle", "two dogs and a blue square"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def pipe(folder):
    pipe = smalti.load(folder)
    pipe.denoiser.light = untrained(pipe, change=0.5)
    return pipe


def untrained(pipe, change=0.0):
    light = LightLayer(pipe.denoiser.config)
    light.init_weights(torch.Generator().manual_seed(3))
    light.change.weight.data.normal_(0, change or 1e-9, generator=torch.Generator().manual_seed(4))
    return light.requires_grad_(False)


def drawn(pipe, prompts=PROMPTS, seed=0, **changes):
    settings = pipe.settings.replaced(num_inference_steps=8, **changes)
    return pipe(prompts, settings=settings, seed=seed, output_type="tokens")


@torch.no_grad()
def distance(pipe, settings, light):
    """Mean squared difference between the outputs of light passes and of passes, over one drawing."""
    states = [step.tokens for step in pipe.start(PROMPTS[:1], settings, seed=9)]
    prompt, found = pipe.components.prompts(PROMPTS[:1], 64, 64), []
    pipe.denoiser.light = light
    for before, after in itertools.pairwise(states):
        memory = LightMemory()
        pipe.denoiser(before, prompt, memory)
        found.append((pipe.denoiser(after, prompt, memory) - pipe.denoiser(after, prompt)).square().mean())
    pipe.denoiser.light = None
    return float(sum(found))


def test_it_runs_between_passes_and_is_no_pass(pipe):
    exact = drawn(pipe)
    assert torch.equal(drawn(pipe, reuse="light:every=1").tokens, exact.tokens)
    found = drawn(pipe, reuse="light:every=3")
    assert found.passes == [3, 3] and exact.passes == [8, 8]
    assert not torch.equal(found.tokens, exact.tokens)
    assert torch.equal(drawn(pipe, reuse="light:every=3").tokens, found.tokens)


@pytest.mark.parametrize("guidance", [0.0, 1.5])
@pytest.mark.parametrize("conditioning", ["sequence", "cross_attention"])
def test_an_image_does_not_depend_on_its_batch(tmp_path, guidance, conditioning):
    """Prompts of different lengths, with and without guidance, in both ways of reading the prompt."""
    pipe = smalti.load(write_tiny_model(tmp_path / "tiny", conditioning=conditioning))
    pipe.denoiser.light = untrained(pipe, change=0.5)
    options = {"reuse": "light:every=4", "guidance_scale": guidance, "revision": "threshold:0.3"}
    together = drawn(pipe, seed=[5, 6], **options).tokens
    for number, prompt in enumerate(PROMPTS):
        assert torch.equal(drawn(pipe, prompt, seed=5 + number, **options).tokens[0], together[number])


def test_a_layer_that_changes_nothing_repeats_the_last_pass(pipe):
    """Its predictions are then those that the last pass made, whatever has been revealed since."""
    pipe.denoiser.light = untrained(pipe)
    settings = pipe.settings.replaced(
        num_inference_steps=4, reuse="light:every=4", draw="argmax", guidance_scale=0
    )
    first, *_, last = pipe.start("a red circle", settings, seed=0)
    pipe.denoiser.light = None
    one = next(iter(pipe.start("a red circle", settings.replaced(reuse="none"), seed=0)))
    assert torch.equal(first.tokens, one.tokens)
    hidden = pipe.denoiser(
        torch.full((1, 8, 8), pipe.denoiser.config.mask_code),
        pipe.components.prompts(["a red circle"], 64, 64),
    )
    best = (hidden @ pipe.denoiser.head.T).argmax(-1).view(1, 8, 8)
    assert float((last.tokens == best).float().mean()) > 0.95


def test_it_must_be_loaded(folder):
    with pytest.raises(SmaltiError, match="reuse 'light' needs a light layer: load one with light=FILE"):
        drawn(smalti.load(folder), reuse="light")
    with pytest.raises(SmaltiError, match="every must be"):
        drawn(smalti.load(folder), reuse="light:every=0")


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_training_comes_nearer_to_the_model_and_leaves_it_alone(folder, guidance):
    pipe = smalti.load(folder)
    before = {name: value.clone() for name, value in pipe.denoiser.state_dict().items()}
    settings = pipe.settings.replaced(num_inference_steps=6, guidance_scale=guidance)
    training = LightTraining(steps=60, batch_size=4, learning_rate=5e-3)
    light = train_light(pipe.components, PROMPTS, settings, training)
    assert distance(pipe, settings, light) < 0.9 * distance(pipe, settings, untrained(pipe))
    assert pipe.denoiser.light is None and not any(weight.requires_grad for weight in light.parameters())
    after = pipe.denoiser.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    again = train_light(pipe.components, PROMPTS, settings, training)
    assert all(torch.equal(a, b) for a, b in zip(light.parameters(), again.parameters(), strict=True))


def test_the_command_writes_what_loading_reads(folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red circle\n\ntwo dogs\n")
    out = tmp_path / "light.safetensors"
    line = ["train-light", tmp_path / "prompts.txt", "-o", out, "--model", folder, "--steps", 2, "--json"]
    assert main([*map(str, line), "--batch-size", "2", "--drawing-steps", "6"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["drawing_steps"], report["every"], report["steps"]) == (6, 4, 2)
    image = tmp_path / "image.png"
    line = ["generate", "a red circle", "-o", image, "--model", folder, "--light", out, "--steps", 8]
    assert main([*map(str, line), "--reuse", "light:every=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passes"] == [2]


def test_its_file_belongs_to_its_model(pipe, folder, tmp_path):
    file = tmp_path / "light.safetensors"
    save_light(pipe.denoiser.light, file, base=folder)
    found = smalti.load(folder, light=file).denoiser.light
    assert all(
        torch.equal(a, b) for a, b in zip(found.parameters(), pipe.denoiser.light.parameters(), strict=True)
    )
    other = write_tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(SmaltiError, match="light .* is for another base than"):
        smalti.load(other, light=file)
    save_light(pipe.denoiser.light, file)
    wide = write_tiny_model(tmp_path / "wide", intermediate_size=96)
    with pytest.raises(SmaltiError, match="is for a model of another shape"):
        smalti.load(wide, light=file)
    with pytest.raises(SmaltiError, match="light must be a file of smalti train-light"):
        with_light(pipe.components, folder / "model.safetensors")
    with pytest.raises(SmaltiError, match="a denoiser with a light layer cannot be saved"):
        save_denoiser(pipe.denoiser, tmp_path / "saved")


def test_wrong_input_gets_one_line(folder, tmp_path, capsys):
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "one.txt").write_text("a red circle\n")
    os.mkfifo(tmp_path / "pipe")
    out = tmp_path / "light.safetensors"
    for prompts, words, named in (
        (tmp_path / "nowhere", [], "nowhere does not exist"),
        (tmp_path / "none.txt", [], "PROMPTS must be a file with a prompt a line"),
        (tmp_path / "pipe", [], "pipe"),
        (tmp_path / "one.txt", ["--every", "1"], "--every must be"),
        (tmp_path / "one.txt", ["--drawing-steps", "2"], "--drawing-steps must be at least 3, not 2"),
        (tmp_path / "one.txt", ["--learning-rate", "nan"], "--learning-rate must be"),
        (tmp_path / "one.txt", ["--dtype", "bfloat16"], "trained in float32"),
        (tmp_path / "one.txt", ["-o", str(tmp_path / "one.txt")], "must name a .safetensors file"),
        (tmp_path / "one.txt", ["-o", str(folder / "model.safetensors")], "smalti train-light"),
    ):
        line = ["train-light", str(prompts), "--model", str(folder), "-o", str(out), "--steps", "1", *words]
        assert main(line) == 2
        error = capsys.readouterr().err
        assert named in error and error.count("\n") == 1, error
        assert not out.exists()
    with pytest.raises(SmaltiError, match="light must be a file that exists"):
        smalti.load(folder, light=tmp_path / "pipe")
