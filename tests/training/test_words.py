"""Learned words: their places in prompts, their rows in the embedding, their files, and their training."""

from __future__ import annotations

import json

import pytest
import torch
from folders import write_tiny_model
from PIL import Image

import smalti
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.model.learned import LearnedWord, WordEmbedding
from smalti.model.text import TextTokenizer
from smalti.storage.words import read_word, save_word, with_words
from smalti.training.words import WordTraining, check_captions, nearest_word, train_word

NAME = "<thing>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def pipe(folder):
    return smalti.load(folder)


def word_of(pipe, count=1, name=NAME):
    vectors = torch.randn(count, pipe.denoiser.config.hidden_size, generator=torch.Generator().manual_seed(1))
    return LearnedWord(name, vectors)


def test_a_word_takes_the_places_of_its_ids(pipe):
    """The ids around it are those of the text around it, and other prompts are read as before."""
    plain, tokenizer = "a red star and a dog", pipe.text_tokenizer
    embedded = pipe.denoiser.embed_tokens(torch.tensor([tokenizer.encode(plain)]))
    word = word_of(pipe, 2)
    parts = with_words(with_words(pipe.components, [word]), [word_of(pipe, name="<thing-2>")])
    vocab = pipe.denoiser.config.vocab_size
    ids = parts.text_tokenizer.encode("a <thing> and a <thing-2>, <thing>")
    known = [*tokenizer.encode("a "), vocab, vocab + 1, *tokenizer.encode(" and a "), vocab + 2]
    assert ids == [*known, *tokenizer.encode(", "), vocab, vocab + 1]
    assert parts.text_tokenizer.spans("a <thing>")[-2:] == [(2, 9), (2, 9)]
    assert "<thing>" not in tokenizer.words and parts.name.endswith(" + <thing> + <thing-2>")
    embedding = parts.denoiser.embed_tokens
    assert isinstance(embedding, WordEmbedding) and not isinstance(embedding.base, WordEmbedding)
    assert torch.equal(embedding(torch.tensor([[vocab, vocab + 1]]))[0], word.vectors)
    assert torch.equal(embedding(torch.tensor([tokenizer.encode(plain)])), embedded)


def test_a_word_takes_the_blank_that_its_tokenizer_joins_to_words():
    """Byte-level tokenizers of large models have one id for a word with its blank; a lone blank would be odd."""
    vocab = {"a": 0, "Ġ": 1, "Ġa": 2}
    model = {"type": "BPE", "vocab": vocab, "merges": [["Ġ", "a"]]}
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    joined = TextTokenizer(json.dumps({"added_tokens": [], "model": model, "pre_tokenizer": split}))
    taught = joined.with_words({NAME: [7]})
    assert joined.encode("a a ") == [0, 2, 1] and taught.encode("a <thing> a") == [0, 7, 2]
    assert taught.encode("<thing>") == [7] and taught.spans("a <thing> a")[1] == (2, 9)


def test_training_changes_the_word_alone(pipe):
    tokens = torch.randint(0, 64, (2, 8, 8), generator=torch.Generator().manual_seed(3))
    before = {name: value.clone() for name, value in pipe.denoiser.state_dict().items()}
    wanted = [value.requires_grad for value in pipe.denoiser.parameters()]
    losses = []
    training = WordTraining(steps=12, batch_size=2, learning_rate=2.0, vectors=2, initial="a")
    captions = ["a red <thing>", "two <thing>"]

    def learn():
        return train_word(
            pipe.components, tokens, captions, NAME, training, report=lambda step, loss: losses.append(loss)
        )

    word = learn()
    assert word.vectors.shape == (2, pipe.denoiser.config.hidden_size) and not word.vectors.requires_grad
    assert torch.equal(word.vectors, learn().vectors) and losses[:12] == losses[12:]
    assert sum(losses[8:12]) < sum(losses[:4])
    assert pipe.denoiser.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in pipe.denoiser.state_dict().items())
    assert [value.requires_grad for value in pipe.denoiser.parameters()] == wanted


def test_the_nearest_word_is_one_of_those_that_are_known(pipe):
    """It makes the images likeliest under masks that all words share; a model without words needs an initial text."""
    tokens = torch.randint(0, 64, (2, 8, 8), generator=torch.Generator().manual_seed(3))
    line = (pipe.components, tokens, ["a red <thing>", "two <thing>"], NAME)
    words = ["star", "dog", "square", "blue", "yellow"]
    found = nearest_word(*line, words)
    assert (
        found in words and found == nearest_word(*line, words[::-1]) and nearest_word(*line, ["dog"]) == "dog"
    )
    with pytest.raises(SmaltiError, match="initial must be named for a model whose words are not known"):
        train_word(*line)


def test_files_of_words(pipe, folder, tmp_path):
    word = word_of(pipe, 3)
    save_word(word, tmp_path / "a.safetensors", base=folder)
    stored = read_word(tmp_path / "a.safetensors")
    assert stored.word.name == NAME and torch.equal(stored.word.vectors, word.vectors) and stored.base
    drawn = smalti.load(folder, word=tmp_path / "a.safetensors")("a <thing>", seed=1, num_inference_steps=1)
    same = with_words(pipe.components, [word])
    assert torch.equal(drawn.tokens, smalti.Pipeline(same)("a <thing>", seed=1, num_inference_steps=1).tokens)
    other = write_tiny_model(tmp_path / "other", seed=5)
    with pytest.raises(SmaltiError, match=r"word .*a\.safetensors is for another base"):
        smalti.load(other, word=tmp_path / "a.safetensors")
    for wrong, message in (
        (tmp_path / "none", "word must be a file that exists"),
        (folder / "model.safetensors", "word must be a file of smalti train-word"),
        ([tmp_path / "a.safetensors"] * 2, "word must have a name that is free: <thing> is given twice"),
        (5, "word must be a file or a list of files"),
    ):
        with pytest.raises(SmaltiError, match=message):
            smalti.load(folder, word=wrong)
    narrow = LearnedWord(NAME, torch.zeros(1, 3))
    with pytest.raises(SmaltiError, match="word <thing> is for another model: its vectors have 3 numbers"):
        with_words(pipe.components, [narrow])


def test_wrong_arguments():
    for name in ("thing", "<a b>", "<|im_end|>", "<>", 3):
        with pytest.raises(SmaltiError, match="name must be of letters"):
            LearnedWord(name, torch.zeros(1, 8))
    for vectors in (None, [1.0], torch.zeros(1, 8).long(), torch.zeros(8), torch.full((1, 8), torch.nan)):
        with pytest.raises(SmaltiError, match="vectors must be"):
            LearnedWord(NAME, vectors)
    with pytest.raises(SmaltiError, match="captions must hold <thing>, not 'a star'"):
        check_captions(["a star"], NAME)
    with pytest.raises(SmaltiError, match="vectors must be"):
        WordTraining(vectors=17)
    with pytest.raises(SmaltiError, match="initial must be text"):
        WordTraining(initial=" ")
    for rate in (0, 1e300, float("nan")):
        with pytest.raises(
            SmaltiError, match="learning_rate must be a finite number above 0 and at most 1000"
        ):
            WordTraining(learning_rate=rate)


def test_the_commands_learn_and_use_a_word(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        Image.new("RGB", (64, 64), ("red", "blue")[number]).save(f"{number}.png")
    model = ["--model", str(folder)]
    line = ["train-word", "0.png", "1.png", "-o", "w.safetensors", "--steps", "2", "--initial", "dog", *model]
    assert main([*line, "--caption", "a red {}", "--caption", "a blue {}", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["captions"] == ["a red <thing>", "a blue <thing>"] and report["loss"] > 0
    draw = ["generate", "two <thing>", "-o", "out.png", "--steps", "1", "--seed", "1", "--json"]
    assert main([*draw, "--word", "w.safetensors", *model]) == 0
    assert json.loads(capfd.readouterr().out)["model"].endswith(" + <thing>")
    for bad, message in (
        (["--caption", "a star"], "--caption must hold {} once"),
        (
            ["--caption", "{}", "--caption", "{}", "--caption", "{}"],
            "--caption must be given once, or once for",
        ),
        (["--name", "star"], "--name must be of letters"),
        (["--steps", "0"], "--steps must be a whole number"),
        (["-o", str(folder / "model.safetensors")], "-o must not replace"),
    ):
        assert main([*line, *bad]) == 2
        err = capfd.readouterr().err
        assert message in err and err.count("\n") == 1, err
