"""What the words of a prompt say about an image: maps, parts of pairs, the command."""

from __future__ import annotations

import json
from inspect import signature

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.cli.explain import explain as explain_command
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.reading.grounding import PASSES, ground
from smalti.reading.information import check_pairs, explain, without_places

PROMPT = "a blue square left of a yellow star"


def test_information_is_the_drop_without_the_word(pipe, tokens):
    found = explain(pipe.components, tokens, PROMPT, words=["star", "a blue square"], masks=2)
    drops = ground(pipe.components, tokens, PROMPT, ["star", "a blue square"], masks=2)
    for word, drop in zip(found.words, drops, strict=True):
        assert torch.equal(word.values, drop.drop) and word.total == pytest.approx(float(drop.drop.sum()))
        assert float(word.values[word.peak]) == float(word.values.max())
    assert found.passes == 6 and [one.word for one in found.words] == ["star", "a blue square"]


def test_parts_of_a_pair_add_up(pipe, tokens):
    """Each word alone has its redundant and its unique part; all four are what both say; a pair is symmetric."""
    reports = []
    found = explain(
        pipe.components,
        tokens,
        PROMPT,
        words=[],
        pairs=[("blue", "star"), ("star", "blue"), ("a", "a")],
        masks=2,
        report=lambda *now: reports.append(now),
    )
    pair, mirrored, twice = found.pairs
    assert reports[-1] == (14, 14) and found.passes == 14  # all pairs share the whole prompt
    total = pair.redundant + pair.unique[0] + pair.unique[1] + pair.synergistic
    known = explain(pipe.components, tokens, PROMPT, words=["blue"], masks=2).words[0].values
    # What a word says beside the other one is its unique and the synergistic part.
    assert torch.allclose(known, pair.unique[0] + pair.synergistic, atol=1e-4)
    assert torch.allclose(total, mirrored.redundant + sum(mirrored.unique) + mirrored.synergistic, atol=1e-4)
    assert torch.equal(pair.redundant, mirrored.redundant) and torch.equal(pair.unique[0], mirrored.unique[1])
    assert bool((pair.redundant >= 0).all()) and 0 <= pair.overlap <= 1 and twice.words == ("a", "a")


def test_places_are_left_out_together():
    assert without_places(PROMPT, [(2, 6), (24, 30)]) == "a square left of a star"
    assert without_places("red, blue", [(0, 3), (5, 9)]) == "" and without_places(" a  b", []) == " a  b"
    assert check_pairs("a red circle and a red star", [("red", "red")]) == [((2, 5), (19, 22))]
    for pairs, message in (
        ("ab", "pairs must be a list of pairs"),
        (["ab"], "pairs must hold two texts each, not 'ab'"),
        ([("a", "blue")], "pairs must be in the prompt 'a star', not 'blue'"),
        ([("star", "star")], "pairs must name two places in the prompt: 'star' is there once"),
        ([("a star", "star")], "pairs must not overlap"),
    ):
        with pytest.raises(SmaltiError, match=message):
            check_pairs("a star", pairs)


@pytest.fixture
def run(tmp_path, monkeypatch, capfd, folder):
    """Run the command in a folder with a wide image that has no prompt: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 40), "red").save("wide.png")

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["explain", *map(str, arguments), "--model", str(folder)])
        return code, *capfd.readouterr()

    return call


def test_the_command_writes_a_figure_and_json(run, pipe):
    line = ["wide.png", "two dogs", "--masks", 1, "--pair", "two, dogs"]
    code, out, _ = run(*line, "-o", "words.png", "--json")
    found = pipe.explain("wide.png", "two dogs", pairs=[("two", "dogs")], masks=1)
    report = json.loads(out)
    assert code == 0 and report["words"] == [one.to_dict() for one in found.words]
    assert report["pairs"] == [found.pairs[0].to_dict()] and report["passes"] == 4
    assert found.words[0].map.shape == (40, 90) and 0 <= found.words[0].peak[0] < 90
    with Image.open("words.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(found.figure()))
    code, out, _ = run(*line, "--words", "dogs")
    assert code == 0 and out.count("nats") == 2 and "two and dogs: redundant" in out


BAD_LINES = {
    "wide.png does not say what it shows: name PROMPT": ["wide.png"],
    "--words must be in the prompt 'two dogs', not 'cat'": ["wide.png", "two dogs", "--words", "cat"],
    "--words must not be given twice": ["wide.png", "two dogs", "--words", "two,Two"],
    "--pair must be two words with a comma": ["wide.png", "two dogs", "--pair", "two"],
    "--pair must be in the prompt": ["wide.png", "two dogs", "--pair", "two,cats"],
    "prompt must be text with a word": ["wide.png", "…"],
    "--masks must be a whole number": ["wide.png", "two dogs", "--masks", 0],
    "--masks must be a whole number from 1 to 4096": ["wide.png", "two dogs", "--masks", 10**15],
    "-o must name a .png file": ["wide.png", "two dogs", "-o", "b.jpg"],
}


def test_bad_lines_are_one_line(run):
    for message, line in BAD_LINES.items():
        code, out, err = run(*line)
        assert (code, out) == (2, ""), message
        assert err.startswith("smalti: ") and err.count("\n") == 1 and message in err, (message, err)


def test_the_command_has_the_default_of_the_function():
    assert signature(explain_command).parameters["masks"].default == PASSES
