"""A second model beside a model: what it may be, and what it is asked for."""

from __future__ import annotations

import pytest
import torch
from folders import write_tiny_model

import smalti
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.storage.folder import load_image_tokenizer, save_image_tokenizer
from smalti.storage.verifier import verifier_bytes

PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    parent = tmp_path_factory.mktemp("models")
    model = write_tiny_model(parent / "model")
    small = write_tiny_model(
        parent / "small", num_hidden_layers=1, hidden_size=16, conditioning="cross_attention"
    )
    return model, small


def test_a_smaller_model_with_the_same_codes_decides_what_is_accepted(folders):
    model, small = folders
    pipe = smalti.load(model, verifier=small)
    second = pipe.components.verifier
    assert second.name == "small" and second.image_tokenizer is pipe.components.image_tokenizer
    settings = pipe.settings.replaced(budget="verified:agreement=0,ceiling=0.5", num_inference_steps=8)
    out = pipe([PROMPT, "two dogs"], settings=settings, seed=[0, 1], output_type="tokens")
    assert out.passes == [2, 2]
    plain = pipe(PROMPT, settings=settings.replaced(budget="verified:floor=0,ceiling=0"), seed=0)
    assert plain.passes[0] <= 8


def test_other_codes_are_refused(folders, tmp_path):
    model, _ = folders
    for name, changes in (("other", {}), ("fewer", {"codebook_size": 32})):
        other = write_tiny_model(tmp_path / name, **changes)
        tokenizer = load_image_tokenizer(other)
        with torch.no_grad():
            tokenizer.quantize.embedding.weight.add_(1)
        save_image_tokenizer(tokenizer, other / "vq")
        with pytest.raises(SmaltiError, match="verifier must have the model's image tokenizer"):
            smalti.load(model, verifier=other)


def test_its_memory_counts(folders):
    model, small = folders
    values = sum(weight.numel() for weight in smalti.load(small).denoiser.parameters())
    assert verifier_bytes(model, small, torch.bfloat16) == 2 * values


def test_a_budget_that_needs_one_says_so(folders, tmp_path, capfd):
    model, small = folders
    line = ["generate", PROMPT, "-o", str(tmp_path / "a.png"), "--model", str(model), "--steps", "2"]
    assert main([*line, "--budget", "verified"]) == 2
    err = capfd.readouterr().err
    assert "--verifier FOLDER" in err and "--budget" in err and err.count("\n") == 1
    assert main([*line, "--verifier", str(small)]) == 0
    assert capfd.readouterr().err == "smalti: --verifier has no effect without --budget verified\n"
    assert main([*line, "--verifier", str(small), "--budget", "verified"]) == 0
    assert capfd.readouterr().err == ""
