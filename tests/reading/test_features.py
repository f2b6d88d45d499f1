"""Features of an image for probes: their shapes, what they are, and what is refused."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_denoiser

from smalti.errors import SmaltiError
from smalti.model.spans import find_words
from smalti.reading.features import check_layers, features

PROMPT = "a blue square left of a yellow star"


def test_features_are_those_of_one_visible_pass(pipe, tokens):
    config = pipe.denoiser.config
    count, dim = config.num_hidden_layers, config.hidden_size
    rows, columns = config.positions(8, 8)
    found = features(pipe.components, tokens, PROMPT, layers=range(1, count + 1))
    assert found.hidden.shape == (count, rows, columns, dim) and found.output.shape == (8, 8, dim)
    assert found.words == tuple(PROMPT.split()) and found.attention.shape == (count, rows, columns, 8)
    prompt = pipe.components.prompts([PROMPT], 64, 64)
    with torch.no_grad():
        expected = pipe.denoiser(tokens[None], prompt)[0].unflatten(0, (8, 8))
        last = pipe.denoiser.norm(found.hidden[-1].flatten(0, 1))[None]
        again = pipe.denoiser.expand(last, rows, columns)[0].unflatten(0, (8, 8))
    assert torch.allclose(found.output, expected, atol=1e-5)
    assert torch.allclose(again, expected, atol=1e-5)
    assert not any(module._forward_hooks for module in pipe.denoiser.modules())


def test_stacked_features_are_one_vector_a_token(pipe, tokens):
    found = features(pipe.components, tokens, PROMPT)
    dim, layers = pipe.denoiser.config.hidden_size, len(found.layers)
    both = found.stacked(attention=True)
    assert found.stacked().shape == (8, 8, (layers + 1) * dim) and both.shape[-1] == (layers + 1) * dim + (
        8 * layers
    )
    side = 8 // found.hidden.shape[1]
    assert torch.equal(both[5, 2, :dim], found.hidden[0, 5 // side, 2 // side])
    assert torch.equal(both[5, 2, layers * dim : (layers + 1) * dim], found.output[5, 2])
    assert found.maps().shape == (8, 8, 8) and bool((found.attention > 0).all())


def test_no_prompt_is_the_unconditional_one(pipe, tokens):
    """Texts of one length then say the same, and there are no words to attend to."""
    found = features(pipe.components, tokens, None)
    assert found.words == () and found.attention.shape[-1] == 0 == found.maps().shape[-1]
    assert not torch.equal(found.output, features(pipe.components, tokens, PROMPT).output)


def test_cross_attention_has_features_too(pipe, tokens):
    from dataclasses import replace

    other = replace(pipe.components, denoiser=tiny_denoiser(conditioning="cross_attention"))
    found = features(other, tokens, "two dogs", layers=[1])
    assert found.words == ("two", "dogs") and found.hidden.shape[0] == 1 == found.attention.shape[0]


def test_the_pipeline_reads_images(pipe):
    scene = pipe("two dogs", seed=1, num_inference_steps=1)
    found = pipe.features(scene, "two dogs", layers=[1])
    assert torch.equal(
        found.output, features(pipe.components, scene.tokens[0], "two dogs", layers=[1]).output
    )


def test_wrong_layers_are_refused(pipe, tokens):
    assert check_layers(None, 2) == (1, 2) and check_layers([2], 2) == (2,)
    for layers in ([], [0], [3], [2, 1], [1, 1], [True], "1", 1):
        with pytest.raises(SmaltiError, match="layers must be rising whole numbers from 1 to 2"):
            check_layers(layers, 2)
    with pytest.raises(SmaltiError, match="prompt must not be empty"):
        features(pipe.components, tokens, " ")


def test_words_of_a_prompt():
    prompt = "A red-ish circle, one's"
    assert [prompt[start:end] for start, end in find_words(prompt)] == ["A", "red-ish", "circle", "one's"]
