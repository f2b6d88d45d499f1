"""The models that `smalti serve` loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from folders import write_tiny_model

from smalti.cli import serve
from smalti.cli.serve_models import load_models
from smalti.errors import SmaltiError
from smalti.model.learned import LearnedWord
from smalti.storage.words import save_word


def test_served_models_know_learned_words(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    flags = {"quantize_activations": False, "compile": False}
    loading = dict.fromkeys(serve._LOADING) | flags | {"device": "cpu"}
    (plain,) = load_models([str(folder)], loading).values()
    file = tmp_path / "thing.safetensors"
    save_word(LearnedWord("<thing>", torch.zeros(1, plain.denoiser.config.hidden_size)), file, base=folder)
    found = load_models([str(folder)], loading | {"word": [str(file)]})
    assert list(found) == ["tiny + <thing>"]
    assert found["tiny + <thing>"].components.unknown_words(["a <thing>"]) == []
    with pytest.raises(SmaltiError, match="word must be a file that exists"):
        load_models([str(folder)], loading | {"word": ["nowhere"]})
