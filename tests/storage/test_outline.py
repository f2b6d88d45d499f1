"""The outline of a model: what it is like, without its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from folders import write_tiny_model

import smalti
from smalti.editing.embedded import TEXT, embed_tokens, find_embedded
from smalti.editing.picture import Picture
from smalti.errors import SmaltiError
from smalti.generation.drawing import start
from smalti.model.learned import LearnedWord
from smalti.pipeline import Pipeline
from smalti.storage.loading import load_components, load_outline
from smalti.storage.words import read_words, save_word, with_stored_words
from smalti.vq.naming import codebook_name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_it_holds_no_weights_but_the_codebook(folder) -> None:
    outline = load_outline(folder)
    assert all(weight.is_meta for weight in outline.denoiser.parameters())
    kept = [name for name, weight in outline.image_tokenizer.named_parameters() if not weight.is_meta]
    assert kept == ["quantize.embedding.weight"]


def test_it_says_what_the_model_says(folder) -> None:
    outline, whole = load_outline(folder), load_components(folder)
    assert (outline.name, outline.words, outline.mask_code) == (whole.name, whole.words, whole.mask_code)
    assert outline.grid(64, 32) == whole.grid(64, 32)
    assert codebook_name(outline.image_tokenizer) == codebook_name(whole.image_tokenizer)
    assert Pipeline(outline).settings == Pipeline(whole).settings
    texts = ["a red circle", "two dogs"]
    assert torch.equal(outline.prompts(texts, 64, 64).ids, whole.prompts(texts, 64, 64).ids)


def test_it_reads_learned_words_as_the_model_does(folder, tmp_path) -> None:
    whole, outline = load_components(folder), load_outline(folder)
    file = tmp_path / "thing.safetensors"
    save_word(LearnedWord("<thing>", torch.zeros(2, whole.denoiser.config.hidden_size)), file, base=folder)
    whole, outline = (with_stored_words(parts, read_words(file)) for parts in (whole, outline))
    assert (outline.name, outline.words) == (whole.name, whole.words)
    texts = ["a red <thing>"]
    assert torch.equal(outline.prompts(texts, 64, 64).ids, whole.prompts(texts, 64, 64).ids)


def test_it_checks_a_generation_and_draws_none(folder) -> None:
    outline = load_outline(folder)
    settings = Pipeline(outline).settings
    start(outline, "a red circle", settings, seed=1)
    with pytest.raises(SmaltiError, match="num_inference_steps must be at most"):
        start(outline, "a red circle", settings.replaced(num_inference_steps=10**6), seed=1)


def test_it_finds_the_tokens_of_an_image(folder) -> None:
    pipe = smalti.load(folder)
    drawn = pipe("a red circle", seed=1)
    pixels = np.asarray(drawn.images[0])
    text = embed_tokens(drawn.tokens[0], pipe.image_tokenizer).to_text(Picture(pixels))
    found = find_embedded(Picture(pixels, {TEXT: text}), load_outline(folder).image_tokenizer)
    assert found is not None and torch.equal(found.tokens, drawn.tokens[0])


def test_a_missing_model_is_named() -> None:
    with pytest.raises(SmaltiError, match="model must be"):
        load_outline("no/such/model/here")
