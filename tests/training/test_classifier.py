"""Classifiers over tokens, from a folder of labelled images to a file that steers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from folders import write_tiny_model
from PIL import Image

import smalti
from smalti.cli.main import main
from smalti.errors import SmaltiError
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
    with pytest.raises(SmaltiError, match="trained with the model's image tokenizer"):
        read_classifier(tmp_path / "c.safetensors", tokenizer)
