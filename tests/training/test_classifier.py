"""Classifiers over tokens, from a folder of labelled images to a file that steers."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from folders import write_tiny_model
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import smalti
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.model.classifier import ClassifierNetwork, TokenClassifier
from smalti.storage.classifiers import read_classifier, write_classifier
from smalti.training.classifier import find_labelled, train_classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    place = tmp_path_factory.mktemp("labelled")
    draw = np.random.default_rng(0)
    for name, value in (("dark", 0), ("light", 200)):
        (place / name).mkdir()
        for index in range(3):
            pixels = value + draw.integers(0, 50, (64, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{index}.png")
    (place / "empty").mkdir()
    return place


def test_a_network_learns_masked_grids():
    codebook = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(40) % 2
    tokens = torch.randint(0, 4, (40, 4, 4), generator=torch.Generator().manual_seed(1))
    tokens += 4 * numbers[:, None, None]
    first, second = (
        train_classifier(codebook, tokens, numbers, ("low", "high"), steps=40, batch_size=16)
        for _ in range(2)
    )
    assert first.accuracy[0.0] == first.accuracy[0.5] == 1.0 and first.images == (20, 20)
    assert torch.equal(first.network.linear.weight, second.network.linear.weight)
    asked = first.network.classifier(codebook, first.labels)
    slope = asked.slope(torch.full((4, 4), 8), 1)[0, 0]
    shifts = asked.codes[:8] @ slope
    assert float(shifts[4:].mean()) > float(shifts[:4].mean()) + 0.1


def test_the_command_writes_a_file_that_steers(folder, images, tmp_path, capfd):
    path = tmp_path / "brightness.safetensors"
    line = ["train-classifier", images, "-o", path, "--model", folder, "--steps", 3, "--json"]
    assert main([*map(str, line), "--height", "64", "--width", "64"]) == 0
    assert json.loads(capfd.readouterr().out)["images"] == {"dark": 3, "light": 3}
    pipe = smalti.load(folder, classifier=path)
    drawing = pipe.settings.replaced(num_inference_steps=2, steering="classifier:light,scale=5000")
    assert pipe("two dogs", settings=drawing, seed=0, output_type="tokens").tokens.shape[0] == 1
    with pytest.raises(SmaltiError, match="one of 'dark', 'light', not 'blue'"):
        pipe("two dogs", settings=drawing.replaced(steering="classifier:blue"), seed=0)
    draw = ["generate", "two dogs", "-o", tmp_path / "x.png", "--model", folder, "--steps", 1]
    assert main([*map(str, draw), "--steer", "classifier:light"]) == 2
    assert "--steer needs a classifier" in capfd.readouterr().err.replace("\n", " ")
    assert main([*map(str, draw), "--steer", "classifier:light", "--classifier", str(path)]) == 0


def test_wrong_folders_and_files_are_named(folder, images, tmp_path):
    for place in (tmp_path / "none", images / "dark"):
        with pytest.raises(SmaltiError, match="folder must"):
            find_labelled(place)
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    for wrong in (tmp_path / "none", tmp_path / "broken.safetensors", 3):
        with pytest.raises(SmaltiError, match="classifier must be"):
            smalti.load(folder, classifier=wrong)


def test_a_classifier_belongs_to_its_image_tokenizer(folder, tmp_path):
    tokenizer = smalti.load(folder).image_tokenizer
    codebook = tokenizer.quantize.embedding.weight.detach()
    network = train_classifier(
        codebook, torch.zeros(4, 2, 2).long(), torch.arange(4) % 2, ("a", "b"), steps=1
    ).network
    write_classifier(tmp_path / "c.safetensors", network, ("a", "b"), tokenizer)
    assert read_classifier(tmp_path / "c.safetensors", tokenizer).labels == ("a", "b")
    with torch.no_grad():
        tokenizer.quantize.embedding.weight += 1
    with pytest.raises(SmaltiError, match="trained with another image tokenizer"):
        read_classifier(tmp_path / "c.safetensors", tokenizer)


@pytest.fixture
def written(folder, tmp_path):
    tokenizer = smalti.load(folder).image_tokenizer
    network = ClassifierNetwork(tokenizer.config.embed_dim, 2)
    write_classifier(tmp_path / "c.safetensors", network, ("a", "b"), tokenizer)
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        metadata = file.metadata()
    return tokenizer, load_file(tmp_path / "c.safetensors"), metadata


@pytest.mark.parametrize(
    ("changes", "told", "reason"),
    [
        ({"embed.0.bias": torch.full((128,), torch.nan)}, {}, "must be finite"),
        ({"linear.bias": torch.zeros(2, dtype=torch.int32)}, {}, "must be floating-point"),
        ({"embed.0.weight": torch.zeros(128, 5)}, {}, "must be \\(128, 8\\), not \\(128, 5\\)"),
        ({"embed.0.weight": torch.full((128, 8), 3e38)}, {}, "must have finite codes"),
        ({"linear.weight": torch.zeros(2, 30_000)}, {}, "1 to 1024"),
        ({"linear.weight": torch.zeros(())}, {}, "1 to 1024"),
        ({"other": torch.zeros(1)}, {}, "unknown 'other'"),
        ({}, {"labels": '["a", "a"]'}, "no labels"),
    ],
)
def test_files_that_do_not_fit_are_refused(written, tmp_path, changes, told, reason):
    tokenizer, weights, metadata = written
    save_file({**weights, **changes}, tmp_path / "x.safetensors", {**metadata, **told})
    with pytest.raises(SmaltiError, match=f"classifier must be .*{reason}") as found:
        read_classifier(tmp_path / "x.safetensors", tokenizer)
    assert len(str(found.value)) < 300


def test_a_pipe_is_not_waited_for(written, tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(SmaltiError, match="classifier must be .*not a regular file"):
        read_classifier(tmp_path / "pipe.safetensors", written[0])


def test_functions_must_have_a_gradient_and_labels():
    codes, grid = torch.randn(5, 3), torch.zeros(2, 2).long()
    for labels in ((), ("a", "a"), "ab", ("",)):
        with pytest.raises(SmaltiError, match="classifier must have a tuple of labels"):
            TokenClassifier(torch.sum, codes, labels)
    for wrong in (codes.long(), codes[0], codes * torch.inf, None):
        with pytest.raises(SmaltiError, match="classifier must have"):
            TokenClassifier(torch.sum, wrong, ("a",))
    for function in (torch.sum, lambda _: torch.zeros(1, 1), lambda v: v.mean(dim=(1, 2))[:, :1] * torch.nan):
        with pytest.raises(SmaltiError, match="classifier must"):
            TokenClassifier(function, codes, ("a",)).slope(grid, 0)


def test_the_command_names_what_is_wrong(folder, images, tmp_path, capfd):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes((folder / "model.safetensors").read_bytes())
    before = weights.read_bytes()
    (tmp_path / "labels" / "a,b").mkdir(parents=True)
    (tmp_path / "labels" / "c").mkdir()
    for name in ("a,b/1.png", "a,b/2.png", "c/1.png", "c/2.png"):
        Image.new("RGB", (1, 1)).save(tmp_path / "labels" / name)
    out = ["-o", tmp_path / "c.safetensors", "--model", folder]
    for line, message in (
        ([images, "-o", weights, "--model", folder], "-o must not replace"),
        ([images, *out, "--height", 0], "--height must be a multiple of 8 pixels"),
        ([images, *out, "--width", 33], "--width must be a multiple of 8 pixels"),
        ([images, *out, "--batch-size", 0], "--batch-size must be"),
        ([tmp_path / "none", *out], "FOLDER must be"),
        ([tmp_path / "labels", *out], "FOLDER must have subfolders whose names hold no comma"),
    ):
        assert main(["train-classifier", *map(str, line)]) == 2
        assert message in capfd.readouterr().err
    assert weights.read_bytes() == before and not (tmp_path / "c.safetensors").exists()
