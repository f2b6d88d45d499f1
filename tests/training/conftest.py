"""A folder with a whole run of both trainings in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from trainings import DENOISER, TOKENIZER, write

from smalti.training.config import DenoiserRunConfig, TokenizerRunConfig
from smalti.training.denoiser import train_denoiser
from smalti.training.reading import load_config
from smalti.training.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole run of both trainings in it."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        train_tokenizer(load_config(TokenizerRunConfig, write("tokenizer.yaml", TOKENIZER)))
        train_denoiser(load_config(DenoiserRunConfig, write("denoiser.yaml", DENOISER)))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def workspace(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"
