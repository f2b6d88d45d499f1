"""The suite `objects`: prompts, what is judged, ground truth; with a tiny archive and a scorer without training."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from objects_archive import NOUNS, untrained_scorer, write_shapes
from PIL import Image

from smalti.errors import SmaltiError
from smalti.evaluation.folder import read_prompts, write_prompts
from smalti.evaluation.geneval import Detection
from smalti.evaluation.request import Request
from smalti.evaluation.run import evaluate
from smalti.evaluation.suite import find_suite
from smalti.evaluation.suites.objects import suite as module
from smalti.evaluation.suites.objects.scorer import save_scorer
from smalti.evaluation.suites.objects.suite import Objects
from smalti.worlds.objects.nouns import GENEVAL_NOUNS
from smalti.worlds.tasks import TAGS

GENEVAL = Path(__file__).parents[4] / "shared" / "benchmarks" / "geneval_prompts.jsonl"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    folder = tmp_path_factory.mktemp("objects")
    write_shapes(folder)
    save_scorer(untrained_scorer(), folder / "scorer.safetensors")
    found = find_suite(f"objects:archive={folder},scorer={folder / 'scorer.safetensors'}")
    assert isinstance(found, Objects)
    return found


def single(noun: str) -> dict[str, object]:
    return {"tag": "single_object", "prompt": f"a {noun}", "include": [{"class": noun, "count": 1}]}


def seen(monkeypatch: pytest.MonkeyPatch, *detections: Detection) -> None:
    """Let the detector find these things in every image."""
    monkeypatch.setattr(module, "detect", lambda image, scorer: list(detections))


def test_prompts_are_over_the_claimed_nouns(suite: Objects) -> None:
    prompts = suite.prompts(12, 0)
    assert prompts == suite.prompts(12, 0) and prompts != suite.prompts(12, 1)
    assert Counter(prompt["tag"] for prompt in prompts) == dict.fromkeys(TAGS, 2)
    for prompt in prompts:
        suite.check_prompt(prompt)
        assert {entry["class"] for entry in prompt["include"]} <= set(NOUNS)


def test_prompts_are_of_the_nouns_of_a_file(suite: Objects, tmp_path: Path) -> None:
    file = tmp_path / "nouns.txt"
    file.write_text(f"{NOUNS[0]}\n\n  {NOUNS[1]}\na unicorn\n{NOUNS[2]}\n")
    few = replace(suite, nouns=str(file))
    asked = {entry["class"] for prompt in few.prompts(24, 0) for entry in prompt["include"]}
    assert asked == set(NOUNS[:3])
    file.write_text("a unicorn\n")
    with pytest.raises(SmaltiError, match="nouns must have one that the scorer claims"):
        few.prompts(6, 0)
    file.write_text("\n")
    with pytest.raises(SmaltiError, match="nouns must be a file with a noun a line, and .* has none"):
        few.prompts(6, 0)
    with pytest.raises(SmaltiError, match="nowhere"):
        replace(suite, nouns="nowhere").prompts(6, 0)


def test_ground_truth_shows_held_out_sprites(suite: Objects) -> None:
    prompts = suite.prompts(12, 0)
    images = list(suite.ground_truth(prompts, Request(images_per_prompt=2), (64, 96)))
    assert [len(group) for group in images if group] and all(len(group) in (0, 2) for group in images)
    assert all(image.shape == (64, 96, 3) for group in images for image in group)
    again = list(suite.ground_truth(prompts, Request(images_per_prompt=2), (64, 96)))
    assert all(
        np.array_equal(a, b)
        for one, two in zip(images, again, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_what_cannot_be_judged_is_counted_apart(suite: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    box = (0.1, 0.1, 0.4, 0.4)
    seen(monkeypatch, Detection("ball", "red", box, 0.9), Detection("thing", "red", box, 0.9))
    image = np.zeros((64, 64, 3), np.uint8)

    def row(*names: str, **more: object) -> object:
        include = [{"class": name, "count": 1, **more} for name in names]
        return suite.score({"tag": "two_object", "prompt": "x", "include": include}, [image, image])

    rows = [row("ball"), row("ball", "unicorn"), row("gryphon"), row("thing"), row("ball", color="blue")]
    scores = suite.summarize(rows)
    assert scores["two_object"] == scores["mean"] == 0.6667 and scores["images"] == 6
    assert scores["unclaimed"] == {"unicorn": 2} and scores["without_sprite"] == {"gryphon": 2}
    table = suite.table(scores)
    assert "unclaimed  unicorn (2)" in table and "without sprite  gryphon (2)" in table
    with pytest.raises(SmaltiError, match="a class that the scorer claims"):
        suite.summarize([row("gryphon")])


def test_a_thing_of_two_classes_counts_for_one_of_them(
    suite: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    include = [{"class": "ball", "count": 1}, {"class": "box", "count": 1}]
    both = {"tag": "two_object", "prompt": "x", "include": include}
    one = [Detection(name, None, (0.1, 0.1, 0.4, 0.4), 0.9) for name in ("ball", "box")]
    other = Detection("box", None, (0.6, 0.1, 0.9, 0.4), 0.5)
    image = np.zeros((64, 64, 3), np.uint8)
    for detections, right in (one, False), ([*one, other], True):
        seen(monkeypatch, *detections)
        assert suite.score(both, [image]).row.correct == [right]
        assert suite.score(single("box"), [image]).row.correct == [True]


def test_prompts_of_a_file(suite: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, Detection("ball", "red", (0.1, 0.1, 0.4, 0.4), 0.9))
    path = tmp_path / "prompts.jsonl"
    lines = [
        {"tag": "single_object", "prompt": f"a {noun}", "include": [{"class": noun, "count": 1}]}
        for noun in NOUNS
    ]
    write_prompts(path, lines)
    request = Request(prompts=path, ground_truth=True)
    found = evaluate(suite, request)
    assert found.scores["images"] == 6 and found.metadata["prompts"] == str(path)
    assert found.scores["single_object"] == pytest.approx(1 / 6, abs=1e-4)
    assert evaluate(suite, Request(prompts=path, ground_truth=True, images=3)).scores["images"] == 3
    with pytest.raises(SmaltiError, match="--images must be at most 6"):
        evaluate(suite, Request(prompts=path, ground_truth=True, images=7))
    with pytest.raises(SmaltiError, match="--folder has prompts of its own"):
        evaluate(suite, Request(prompts=path, folder=tmp_path))
    with pytest.raises(SmaltiError, match="cannot be used with the suite 'contrast'"):
        evaluate(find_suite("contrast"), Request(prompts=path))


@pytest.mark.skipif(not GENEVAL.exists(), reason="GenEval's prompts are not at hand")
def test_prompts_of_geneval_are_taken(suite: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, Detection("ball", "red", (0.1, 0.1, 0.4, 0.4), 0.9))
    image = np.zeros((64, 64, 3), np.uint8)
    prompts = read_prompts(GENEVAL, suite.check_prompt)
    assert len(prompts) == 553
    scores = suite.summarize([suite.score(prompt, [image]) for prompt in prompts])
    asked = [{entry["class"] for entry in prompt["include"]} for prompt in prompts]
    # The tiny archive has kites alone.
    assert scores["images"] == asked.count({"kite"}) and scores["unclaimed"] == {}
    assert scores["without_sprite"].keys() == set().union(*asked) - {"kite"} <= GENEVAL_NOUNS.keys()


def test_a_folder_needs_no_archive(suite: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen(monkeypatch, Detection("ball", "red", (0.1, 0.1, 0.4, 0.4), 0.9))
    bare = Objects(archive="nowhere", scorer=suite.scorer)
    (tmp_path / "00000" / "samples").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "00000" / "samples" / "0000.png")
    prompt = {"tag": "colors", "prompt": "x", "include": [{"class": "ball", "count": 1, "color": "red"}]}
    (tmp_path / "00000" / "metadata.jsonl").write_text(json.dumps(prompt))
    assert evaluate(bare, Request(folder=tmp_path)).scores["colors"] == 1
    with pytest.raises(SmaltiError, match="smalti prepare objects") as caught:
        evaluate(bare, Request(ground_truth=True, images=6))
    assert "--set archive=FOLDER" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"class": 3, "count": 1}, "class"),
        ({"class": "ball", "count": 0}, "count"),
        ({"class": "ball", "count": 1, "color": "teal"}, "teal"),
        ({"class": "ball", "count": 1, "position": ["above", 0]}, "position"),
    ],
)
def test_wrong_prompts_are_named(tmp_path: Path, entry: dict[str, object], named: str) -> None:
    write_prompts(tmp_path / "p.jsonl", [{"tag": "colors", "prompt": "x", "include": [entry]}])
    with pytest.raises(SmaltiError, match=named):
        read_prompts(tmp_path / "p.jsonl", Objects().check_prompt)


def test_renderings_show_the_sprites_of_one_split(suite: Objects) -> None:
    other = Objects(archive=suite.archive, scorer=suite.scorer, split="train")
    prompts = [single("ball")]
    first, second = (
        next(iter(own.ground_truth(prompts, Request(images_per_prompt=1), (64, 64))))
        for own in (suite, other)
    )
    assert not np.array_equal(first[0], second[0])
    with pytest.raises(SmaltiError, match="split must be 'train' or 'test'"):
        find_suite("objects:split=all")


def test_a_wrong_lattice_is_named() -> None:
    with pytest.raises(SmaltiError, match="lattice must be 0 or a multiple of 8 up to 65536, not 5"):
        find_suite("objects:lattice=5")
