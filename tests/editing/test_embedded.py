"""Texts of embedded tokens from anyone: what does not hold tokens is ignored, whatever it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from folders import write_tiny_model
from PIL import Image

import smalti
from smalti.editing.embedded import TEXT, find_embedded
from smalti.editing.picture import Picture


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return smalti.load(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": [10**30, 10**30]},
        {"grid": [float("inf"), 1]},
        {"grid": [float("nan"), 1]},
        {"grid": [2**16, 2**16]},
        {"grid": [-1, -1]},
        {"size": [float("inf"), 8]},
        {"place": [0, 0, 10**400, 8]},
        {"tokens": 7},
        {"codebook": [[[]]]},
    ],
)
def test_absurd_embedded_tokens_are_ignored(pipe, tmp_path, changes):
    result = pipe.edit(Image.new("RGB", (64, 64)), "a red circle", seed=0, strength=0.1)
    picture = Picture(np.array(result.image))
    values = json.loads(result.embedded().to_text(picture))
    text = json.dumps({**values, **changes})
    assert find_embedded(Picture(picture.pixels, {TEXT: text}), pipe.image_tokenizer) is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"version": 1, "grid": ' + "[" * 100_000, "9" * 5000])
def test_damaged_embedded_texts_are_ignored(pipe, text):
    picture = Picture(np.zeros((64, 64, 3), dtype=np.uint8), {TEXT: text})
    assert find_embedded(picture, pipe.image_tokenizer) is None
