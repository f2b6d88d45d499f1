"""Suites: those of the table, one from outside, what a run can do with them, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import write_tiny_model
from objects_archive import untrained_scorer

pytest.importorskip("skimage")

import smalti  # noqa: E402
from smalti.errors import SmaltiError  # noqa: E402
from smalti.evaluation.controls import check_request, needs_of, source_of  # noqa: E402
from smalti.evaluation.request import Request  # noqa: E402
from smalti.evaluation.run import Evaluation, evaluate, score_samples, shuffle  # noqa: E402
from smalti.evaluation.subject import Subject  # noqa: E402
from smalti.evaluation.suite import SUITES, Suite, describe_suites, find_suite, suite_name  # noqa: E402
from smalti.evaluation.suites.objects.scorer import save_scorer  # noqa: E402

# The smallest run of each suite on a model of 64×64 pixels, and how many samples it scores.
SMALLEST = {
    "scenes": (6, 6),
    "objects:scorer=SCORER": (6, 6),
    "edits": (5, 5),
    "distance:scenes=4": (2, 2),
    "contrast": (1, 6),
    "tokenizer:size=64": (2, 2),
}

# Benchmarks need prompts and a scorer from outside; their own tests run them.
PUBLISHED = {"geneval", "dpg", "hpsv3", "hpsv2", "pickscore", "imagereward", "clip-score", "fid"}


@dataclass(frozen=True)
class Brightness(Suite):
    """Measure how bright images are.

    Attributes:
        word: colour in the prompts.
    """

    word: str = "white"

    def prompts(self, count: int, seed: int) -> list[Any]:
        return [{"prompt": f"a {self.word} circle", "number": seed + index} for index in range(count)]

    def score(self, prompt: Any, sample: Any) -> list[float]:
        return [float(np.asarray(image).mean()) for image in sample]

    def summarize(self, rows: Sequence[Any]) -> dict[str, Any]:
        return {"brightness": round(float(np.mean(rows)), 3), "most": max(map(max, rows))}


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> Brightness:
    monkeypatch.setitem(SUITES, "brightness", Brightness)
    suite = find_suite("brightness:word=black")
    assert isinstance(suite, Brightness)
    return suite


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    pipe = smalti.load(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    return Subject.of(pipe, pipe.settings.replaced(num_inference_steps=2))


def test_the_smallest_runs_cover_the_table() -> None:
    named = [name for name, entry in SUITES.items() if isinstance(entry, str) and name not in PUBLISHED]
    assert [name.partition(":")[0] for name in SMALLEST] == named


@pytest.mark.slow
@pytest.mark.parametrize("text", SMALLEST)
def test_every_suite_runs(text: str, subject: Subject, tmp_path: Path) -> None:
    if text == "contrast":  # it composes scenes of 256×256 pixels
        subject = Subject.of(smalti.load("scenes"))
    images, samples = SMALLEST[text]
    if "SCORER" in text:
        save_scorer(untrained_scorer(), tmp_path / "scorer.safetensors")
    suite, seen = find_suite(text.replace("SCORER", str(tmp_path / "scorer.safetensors"))), []
    subject.passes.clear()
    found = evaluate(suite, Request(images), subject, progress=lambda *count: seen.append(count))
    assert seen == [(index + 1, samples) for index in range(samples)]
    assert json.loads(json.dumps(found.scores))["images"] == images
    assert found.metadata["suite"] == suite_name(suite) == text.partition(":")[0]
    assert not found.metadata.keys() & found.scores.keys()
    assert found.metadata["seed"] == 0 and found.metadata["model"] == subject.name
    assert ("settings" in found.metadata) == (suite.needs == "sampling")
    lines = suite.table(found.scores).splitlines()
    silent = sum(value == {} for value in found.scores.values())  # of what there is none
    assert len(lines) == {"edits": 25, "contrast": 7}.get(text, len(found.scores) - silent)


@pytest.mark.slow
def test_a_suite_from_outside(brightness: Brightness, subject: Subject, tmp_path: Path) -> None:
    request = Request(images=6, images_per_prompt=2, seed=3, batch_size=4, save=tmp_path / "kept")
    found = evaluate(brightness, request, subject)
    assert isinstance(found, Evaluation) and found.scores["images"] == 6
    assert found.metadata["word"] == "black" and found.metadata["passes"] == 2
    # The images are those of the pipeline with these seeds, whatever the batch size.
    assert subject.pipeline is not None
    image = subject.pipeline("a black circle", seed=8, settings=subject.settings).images[0]
    assert (tmp_path / "kept" / "00002" / "samples" / "0001.png").exists()
    assert found.scores["most"] >= np.asarray(image).mean()
    # What is written scores the same, and the order of the prompts makes no difference to this suite.
    for more in ({}, {"shuffled": True}):
        again = evaluate(brightness, Request(folder=tmp_path / "kept", **more))
        assert again.scores == found.scores and "model" not in again.metadata
    for request in (Request(ground_truth=True), Request(tokenized=True)):
        with pytest.raises(SmaltiError, match="cannot be used with the suite 'brightness'"):
            evaluate(brightness, request)
    with pytest.raises(SmaltiError, match="needs a model"):
        evaluate(brightness, Request())
    # Without renderings, the shuffled control draws.
    assert source_of(brightness, Request(shuffled=True)) == "model"
    assert source_of(find_suite("scenes"), Request(shuffled=True)) == "ground_truth"


def test_names_and_options() -> None:
    assert find_suite("scenes:lattice=8") == find_suite("scenes", ["lattice=8"]) == find_suite("scenes:8")
    suite = find_suite("edits:lattice=16", ["selections=automatic+redraw_all"])
    assert suite == find_suite("edits:selections=automatic+redraw_all,lattice=16")
    described = describe_suites()
    assert all(f"{name}:" in described for name in SUITES)
    assert "distance:scenes=2000,lattice=8\n    Measure the Fréchet distance" in described


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("genitive", [], "suite must be 'scenes' or 'objects'"),
        ("scenes", ["8"], "--set must be NAME=VALUE, not '8'"),
        ("scenes", ["size=8"], "suite 'scenes' cannot have 'size=8'; its parameters are lattice"),
        ("scenes:lattice=12", [], "lattice must be 0 or a multiple of 8 up to 65536, not 12"),
        ("tokenizer", ["lattice=-8"], "lattice must be 0 or a multiple of 8 up to 65536, not -8"),
        ("tokenizer", ["size=8"], "size must be 16 to 8192 pixels"),
        ("distance", ["scenes=1"], "scenes must be a whole number of at least 2, not 1"),
        ("distance", ["scenes=many"], "scenes must be a whole number, not 'many'"),
        ("edits", ["selections=automatic+guess"], "selections must be 'automatic' or"),
        ("edits", ["selections=random_share+automatic"], "must have automatic before random_share"),
    ],
)
def test_wrong_names_and_options(text: str, options: list[str], message: str) -> None:
    with pytest.raises(SmaltiError) as caught:
        find_suite(text, options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("suite", "request_", "message"),
    [
        ("scenes", Request(images=5), "--images must be a whole number from 6 to 100000, not 5"),
        (
            "scenes",
            Request(images=11, images_per_prompt=2),
            "--images must be a whole number from 12 to 100000",
        ),
        ("edits", Request(images=4), "--images must be a whole number from 5 to 100000"),
        ("distance", Request(images=1), "--images must be a whole number from 2 to 100000"),
        ("tokenizer", Request(images=0), "--images must be a whole number from 1 to 100000"),
        ("scenes", Request(images_per_prompt=0), "--images-per-prompt"),
        ("scenes", Request(batch_size=0), "--batch-size"),
        ("scenes", Request(seed=-1), "--seed"),
        ("scenes", Request(tokenized=True), "--tokenized needs --ground-truth"),
        ("scenes", Request(folder=Path("x"), ground_truth=True), "leave out --ground-truth and --save"),
        ("scenes", Request(folder=Path("x"), save=Path("y")), "leave out --ground-truth and --save"),
        ("scenes", Request(shuffled=True, save=Path("y")), "leave out --shuffled"),
        ("edits", Request(folder=Path("x")), "--folder cannot be used with the suite 'edits'"),
        ("edits", Request(ground_truth=True, tokenized=True), "--tokenized cannot be used"),
        ("distance", Request(images_per_prompt=2), "--images-per-prompt cannot be used"),
        ("contrast", Request(save=Path("x")), "--save cannot be used with the suite 'contrast'"),
        ("tokenizer", Request(ground_truth=True), "--ground-truth cannot be used"),
    ],
)
def test_wrong_requests(suite: str, request_: Request, message: str) -> None:
    with pytest.raises(SmaltiError) as caught:
        check_request(find_suite(suite), request_)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_what_is_needed_of_a_model() -> None:
    scenes, tokenizer = find_suite("scenes"), find_suite("tokenizer")
    assert needs_of(scenes, Request()) == "sampling" and needs_of(tokenizer, Request()) == "image_tokenizer"
    assert needs_of(scenes, Request(ground_truth=True)) == "nothing"
    assert needs_of(scenes, Request(folder=Path("x"), shuffled=True)) == "nothing"
    assert needs_of(scenes, Request(ground_truth=True, tokenized=True)) == "sampling"
    with pytest.raises(SmaltiError, match="image tokenizer alone"):
        Subject("vq", smalti.load("scenes").image_tokenizer).components  # noqa: B018


def test_ground_truth_of_edits() -> None:
    suite = find_suite("edits")
    found = evaluate(suite, Request(images=5, ground_truth=True))
    scores = found.scores
    assert found.metadata["controls"] == ["ground_truth"] and not found.metadata.keys() & scores.keys()
    assert scores["ground_truth"]["success"] == scores["ground_truth"]["iou"] == 1
    lines = suite.table(scores).splitlines()
    assert lines[1].split()[:3] == ["ground_truth", "1.00", "1.00"] and len(lines) == 7


@pytest.mark.slow
def test_the_floor_is_the_distance_of_ground_truth() -> None:
    scores = evaluate(find_suite("distance:scenes=4"), Request(images=3, ground_truth=True)).scores
    assert scores["distance"] == scores["floor"] > 0 and scores["images"] == 3


@pytest.mark.slow
def test_distances_are_read_from_folders_of_their_own(tmp_path: Path) -> None:
    suite = find_suite("distance:scenes=4")
    found = evaluate(suite, Request(images=3, ground_truth=True, save=tmp_path)).scores
    assert evaluate(suite, Request(folder=tmp_path)).scores == found
    (tmp_path / "00001" / "metadata.jsonl").write_text('{"prompt": "a star"}')
    with pytest.raises(SmaltiError, match="line 1: scene must be a whole number"):
        evaluate(suite, Request(folder=tmp_path))


def test_shuffling_leaves_nothing_in_place() -> None:
    prompts = [object() for _ in range(30)]
    other = shuffle(prompts, seed=3)
    assert all(a is not b for a, b in zip(prompts, other, strict=True))
    assert sorted(map(id, prompts)) == sorted(map(id, other)) and other == shuffle(prompts, seed=3)
    with pytest.raises(SmaltiError, match="at least 2"):
        shuffle(prompts[:1])


def test_samples_are_as_many_as_prompts(brightness: Brightness) -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    prompts = brightness.prompts(2, 0)
    assert score_samples(brightness, prompts, [[image], [image]])["images"] == 2
    for samples in ([[image]], [[image]] * 3):
        with pytest.raises(SmaltiError, match="as many as the 2 prompts"):
            score_samples(brightness, prompts, samples)
    with pytest.raises(SmaltiError, match="nothing to score"):
        score_samples(brightness, [], [])

    def broken() -> Iterator[Any]:
        yield [image]
        raise SmaltiError("the disk is full")

    with pytest.raises(SmaltiError, match="disk is full"):
        score_samples(brightness, prompts, broken())


def test_images_of_two_runs_do_not_mix(tmp_path):
    request = Request(images=12, ground_truth=True, save=tmp_path / "kept")
    evaluate(find_suite("scenes"), request)
    with pytest.raises(SmaltiError, match="--save must name a new or an empty folder, not .* it holds files"):
        evaluate(find_suite("scenes"), request)
    for path in (tmp_path / "kept" / "00000" / "metadata.jsonl", Path("a\0b")):
        with pytest.raises(SmaltiError, match="--save must name a new or an empty folder"):
            check_request(find_suite("scenes"), Request(ground_truth=True, save=path))
