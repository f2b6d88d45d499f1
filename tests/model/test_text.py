"""Text tokenizers: what is no tokenizer.json is refused in one line, and training repeats itself."""

from __future__ import annotations

import json

import pytest
from tiny import GOLDEN, SHORT

from smalti.errors import SmaltiError
from smalti.model.prompt import build_prompts
from smalti.model.text import TextTokenizer, train_text_tokenizer


def golden(**model: object) -> dict:
    values = json.loads((GOLDEN / "tokenizer.json").read_text())
    return {**values, "model": {**values["model"], **model}}


@pytest.mark.parametrize(
    "values",
    [
        golden(vocab={}),
        golden(vocab={}, merges=None),
        golden(vocab=[["a", -1.0]]),
        golden(vocab={"a": -1}),
        golden(vocab={"a": 2**40}),
        golden(vocab={"a": "1"}),
        golden(dropout=float("nan")),
        {**golden(), "added_tokens": [{"id": -5, "content": "x"}]},
        {**golden(), "added_tokens": [{"id": 5, "content": 7}]},
        {**golden(), "added_tokens": [{"id": 5, "content": []}]},
        {**golden(), "added_tokens": {"a": 1}},
        {**golden(), "decoder": {"type": "x" * 5000}},
        {**golden(), "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    ],
)
def test_a_tokenizer_that_the_library_chokes_on_is_one_line(tmp_path, values):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(values))
    with pytest.raises(SmaltiError, match="tokenizer.json is not a tokenizer.json: ") as caught:
        TextTokenizer.from_file(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 200 + len(str(path))


def test_deep_json_is_no_tokenizer():
    with pytest.raises(SmaltiError, match="not a tokenizer.json"):
        TextTokenizer("[" * 100_000)
    text = json.dumps({**golden(), "more": 1})
    with pytest.raises(SmaltiError, match="not a tokenizer.json"):
        TextTokenizer(text.replace('"more": 1', '"normalizer": ' + "[" * 900 + "]" * 900))


def test_a_text_without_ids_is_named():
    words = {"type": "WordLevel", "vocab": {"red": 1}, "unk_token": "<unk>"}
    tokenizer = TextTokenizer(json.dumps({**golden(), "model": words}))
    assert tokenizer.encode("red") == [1]
    with pytest.raises(SmaltiError, match="tokenizer.json cannot encode 'blue'"):
        tokenizer.encode("blue")


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"added_tokens": [], "model": {}}', "\xff\xfe"])
def test_a_broken_tokenizer_file_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(SmaltiError, match="tokenizer.json"):
        TextTokenizer.from_file(path)
    with pytest.raises(SmaltiError, match="missing.json"):
        TextTokenizer.from_file(tmp_path / "missing.json")


class TestTraining:
    captions = [
        f"a {color} {shape}" for color in ("red", "green", "blue") for shape in ("circle", "square")
    ] * 4

    def test_the_special_tokens_have_the_releases_ids(self, tmp_path):
        tokenizer = train_text_tokenizer(self.captions, 400, tmp_path / "tokenizer.json")
        assert len(tokenizer.special) == 101
        for token, index in {
            "<|im_start|>": 10,
            "<|im_end|>": 11,
            "<SPECIAL_18>": 18,
            "<SPECIAL_100>": 100,
        }.items():
            assert tokenizer.special[token] == index
        assert tokenizer.vocab_size <= 400
        assert len(tokenizer.encode("a red circle")) == 3, "frequent words are one token"
        assert tokenizer._plain.decode(tokenizer.encode("ein Käse 🧀")) == "ein Käse 🧀"
        batch = build_prompts(["a <|im_end|> circle"], SHORT, tokenizer, height=64, width=64, slots=4)
        assert batch.ids[0].tolist().count(11) == 1

    def test_the_same_captions_give_the_same_file(self, tmp_path):
        for index in range(2):
            train_text_tokenizer(iter(self.captions), 400, tmp_path / f"{index}.json")
        assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()

    @pytest.mark.parametrize("size", [356, 0, "400"])
    def test_a_vocabulary_that_is_too_small_is_named(self, tmp_path, size):
        with pytest.raises(SmaltiError, match="vocab_size must be a whole number of at least 357"):
            train_text_tokenizer(self.captions, size, tmp_path / "tokenizer.json")
        with pytest.raises(SmaltiError, match="cannot write"):
            train_text_tokenizer(self.captions, 400, tmp_path / "absent" / "tokenizer.json")
