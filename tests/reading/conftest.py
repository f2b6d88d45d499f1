"""What the tests of readers share: a tiny model and a grid of its tokens."""

import pytest
import torch
from folders import write_tiny_model

import smalti


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pipe(folder):
    return smalti.load(folder)


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 64, (8, 8), generator=torch.Generator().manual_seed(3))
