"""Sizes that the weights do not have are refused from the headers alone, before a model of these sizes is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import write_tiny_model

import smalti.storage.folder
import smalti.storage.inspection
from smalti.common import devices
from smalti.errors import SmaltiError
from smalti.storage import loading, precision
from smalti.storage.folder import load_denoiser, load_image_tokenizer
from smalti.storage.inspection import inspect


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder, where nothing can build a model."""
    folder = write_tiny_model(tmp_path / "model")
    for room in (smalti.storage.folder, smalti.storage.inspection):
        for name in ("Denoiser", "ImageTokenizer"):
            monkeypatch.setattr(room, name, None)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 10**6}, "hidden_size must be a whole number from 1 to 131072, not 1000000"),
        ({"vocab_size": 10**9}, "vocab_size must be a whole number from 1 to 16777216, not 1000000000"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers must be a whole number from 1 to 512, not 100000"),
        (
            {"hidden_size": 2**17},
            "hidden_size must be 32 by encoder.embed_tokens.weight in model.safetensors",
        ),
        ({"vocab_size": 2**24}, "vocab_size must be 456 by encoder.embed_tokens.weight"),
        ({"codebook_size": 2**24}, "codebook_size must be 64 by encoder.gen_embedding.weight"),
        (
            {"num_hidden_layers": 512},
            r"num_hidden_layers must be 2 by the tensors encoder\.layers\.\*, not 512",
        ),
    ],
)
def test_a_denoiser_of_other_sizes(model: Path, changes: dict[str, int], message: str) -> None:
    rewrite(model / "config.json", **changes)
    for read in (load_denoiser, inspect):
        with pytest.raises(SmaltiError, match=f"config.json: {message}"):
            read(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 2**16}, "embed_dim must be 8 by quantize.embedding.weight in model.safetensors"),
        ({"codebook_size": 2**24}, "codebook_size must be 64 by quantize.embedding.weight"),
        (
            {"num_res_blocks": 64},
            r"num_res_blocks must be 1 by the tensors decoder\.up\.0\.block\.\*, not 64",
        ),
        ({"ch_mult": [1] * 10}, "the number of levels in ch_mult must be 2 by the tensors"),
    ],
)
def test_an_image_tokenizer_of_other_sizes(model: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(model / "vq" / "config.json", **changes)
    for read in (load_image_tokenizer, inspect):
        with pytest.raises(SmaltiError, match=f"config.json: {message}"):
            read(model / "vq")


@pytest.mark.parametrize(
    "name", ["C:secret", "C:\\secret", "\\secret", "..\\secret", "/secret", "a/../../b", "a\0"]
)
def test_a_folder_inside_the_models_on_every_system(model: Path, name: str) -> None:
    rewrite(model / "config.json", mm_vqvae=name)
    with pytest.raises(SmaltiError, match="mm_vqvae must name a folder inside the model's"):
        load_image_tokenizer(model)


def test_a_device_without_bfloat16_computes_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    apple = torch.device("mps")
    monkeypatch.setattr(loading, "find_device", lambda device: apple)
    monkeypatch.setattr(precision, "can_compute", lambda device, dtype: dtype != torch.bfloat16)
    assert precision.default_dtype(apple, False) == torch.float16
    with pytest.raises(SmaltiError, match="dtype must be one that device mps computes in, not bfloat16"):
        loading.load_components(dtype="bfloat16", device="mps")
    monkeypatch.setattr(precision, "can_compute", lambda device, dtype: True)
    assert precision.default_dtype(apple, False) == torch.bfloat16


def test_a_backend_that_is_absent_computes_nothing() -> None:
    assert devices.can_compute(torch.device("cpu"), torch.bfloat16)
    assert not devices.can_compute(torch.device("xla"), torch.bfloat16)


@pytest.mark.parametrize("name", ["9" * 5000, "x/" * 2000, "a\0b"])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(SmaltiError, match="model must be a folder that exists"):
        loading.load_components(name)
