"""The training of the scorer of objects: a few steps on a tiny archive, and going on after a stop."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from objects_archive import NOUNS, write_shapes

from smalti.evaluation.suites.objects.networks import Segmenter
from smalti.evaluation.suites.objects.scorer import load_scorer

TOOLS = Path(__file__).parents[3] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("train_objects_scorer")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("archive"))


@pytest.mark.slow
def test_classifiers_share_no_drawing_aside(tool: ModuleType, archive: Path) -> None:
    module = sys.modules["scorer.material"]
    material = module.Material.read(archive)
    assert material.nouns == tuple(sorted(NOUNS)) and material.scored == set(NOUNS)
    for label in range(len(NOUNS)):
        known, test = (set(material.parts[part][label]) for part in ("all", "test"))
        assert known and test and not known & test
        hidden = [set(material.parts[f"aside {fold}"][label]) for fold in range(module.FOLDS)]
        assert set().union(*hidden) == known and sum(map(len, hidden)) == len(known)
        for fold, own in enumerate(hidden):
            assert set(material.parts[f"train {fold}"][label]) == known - own
            assert all(material.aside[number] == fold for numbers in own for number in numbers)
    places, labels = material.crops(50, "train 1", torch.Generator().manual_seed(0))
    assert not (material.aside[places] == 1).any()
    for place, label in zip(places, labels, strict=True):
        assert material.collection.archive.sprites[place].noun == material.nouns[label]


@pytest.mark.slow
def test_scenes_have_cover_and_centres(tool: ModuleType, archive: Path) -> None:
    batches = sys.modules["scorer.batches"]
    material = sys.modules["scorer.material"].Material.read(archive)
    generator = torch.Generator().manual_seed(0)
    images, cover, offsets = batches.scenes(
        material.sprites, np.array([[0, -1], [-1, -1], [1, 2]]), generator, 128
    )
    assert images.shape == (3, 3, 128, 128) and 0 <= images.min() and images.max() <= 1
    assert cover.shape == (3, 1, 64, 64) and offsets.shape == (3, 2, 32, 32)
    assert cover[1].max() == 0 and cover[0].max() > 0.99
    # Offsets point from every cell to one centre.
    line = torch.arange(32.0)
    inside = cover[0, 0, ::2, ::2] > 0.5
    assert (offsets[0, 0] + line[None, :])[inside].std() < 1e-3
    assert (offsets[0, 1] + line[:, None])[inside].std() < 1e-3


@pytest.mark.slow
def test_a_training_goes_on_where_it_stopped(
    tool: ModuleType, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"_SCENES": 2, "_CROPS": 8, "_JUNK": 6, "_HARVESTED": 3, "_WIDE": 12, "_HARVESTED_WIDE": 4}
    for name, number in small.items():
        monkeypatch.setattr(tool, name, number)
    material = sys.modules["scorer.material"].Material.read(archive)

    def run(folder: str) -> dict[str, torch.Tensor]:
        output = tmp_path / f"{folder}.safetensors"
        options = Namespace(
            seed=0,
            work=tmp_path / folder,
            json=True,
            harvest=6,
            scene_steps=2,
            crop_steps=3,
            described_steps=2,
            output=output,
        )
        found = tool.train(options, material)
        assert found["nouns"] == len(NOUNS)
        return dict(load_scorer(output).classifier.state_dict())

    # What an untrained segmenter finds is no matter here.
    monkeypatch.setattr(sys.modules["scorer.harvest"], "pieces_near", quarter)
    monkeypatch.setattr(
        sys.modules["scorer.claims"],
        "look",
        lambda material, numbers, *rest: torch.full((len(numbers), len(NOUNS) + 1), 0.14),
    )
    whole = run("whole")
    stopped = sys.modules["scorer.training"]
    monkeypatch.setattr(stopped, "_SAVED", -1)
    saves = []
    save = stopped._save

    def stop(path: Path, step: int, *rest: object) -> None:
        save(path, step, *rest)
        saves.append(path.name)
        if saves.count("mapped-1.safetensors") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(stopped, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    monkeypatch.setattr(stopped, "_save", save)
    parts = run("parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def quarter(owners: np.ndarray, spot: tuple[float, float], reach: float) -> np.ndarray:
    """Return the cells (h, w) bool about a spot."""
    rows, columns = np.indices(owners.shape) / owners.shape[0]
    return np.maximum(abs(columns - spot[0]), abs(rows - spot[1])) < 0.7 * reach


@pytest.mark.slow
def test_crops_are_harvested_from_scenes(
    tool: ModuleType, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["scorer.harvest"]
    material = sys.modules["scorer.material"].Material.read(archive)
    monkeypatch.setattr(module, "pieces_near", quarter)
    path = tmp_path / "harvest.safetensors"
    made = module.harvest(material, Segmenter().eval(), 6, 0, path, False)
    assert 6 <= len(made.labels) == len(made.asides) == len(made.crops) <= 24
    again = module.harvest(material, Segmenter().eval(), 6, 0, path, False)
    assert torch.equal(made.crops, again.crops)
    own = made.without(1)
    assert len(own.labels) and not (own.asides == 1).any()
    crops, labels, asides = own.batch(5, torch.Generator().manual_seed(0))
    assert crops.shape == (5, 4, 40, 40) and 0 <= crops.min() and crops.max() <= 1
    assert labels.shape == asides.shape == (5,)


def test_looks_are_at_the_sprites_of_each_quarter(
    tool: ModuleType, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["scorer.looks"]
    material = sys.modules["scorer.material"].Material.read(archive)
    shown: list[tuple[int, ...]] = []
    draw = module.draw_scene

    def seen(composer: object, numbers: np.ndarray, seed: int, index: int) -> torch.Tensor:
        shown.append(tuple(numbers))
        return draw(composer, numbers, seed, index)

    def find(pixels: torch.Tensor, *_: object) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
        """Find all sprites but the last one of a scene; a thing's first probability is its sprite."""
        boxes = np.array([[30, 30, 90, 90], [150, 30, 210, 90], [30, 150, 90, 210]])[: len(shown[-1]) - 1]
        shares = torch.zeros(len(boxes), len(NOUNS) + 1)
        shares[:, 0] = torch.tensor(shown[-1][: len(boxes)])
        return torch.empty(0), boxes, shares

    monkeypatch.setattr(module, "draw_scene", seen)
    monkeypatch.setattr(module, "name_things", find)
    numbers = np.arange(10, 17)
    shares = module.look(material, numbers, None, None, 0)
    missed = {scene[-1] for scene in shown}
    for number, row in zip(numbers, shares, strict=True):
        assert row[0] == (0 if number in missed else number) and row[-1] == (number in missed)


def test_claims_need_drawings_that_are_found_and_few_others(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["scorer.claims"]
    labels, drawings = np.repeat([0, 1, 2], 10), np.arange(30)
    shares = np.zeros((30, 4))
    shares[np.arange(30), labels] = 0.8
    shares[10:13] = 0.8, 0, 0, 0.2  # three of ten "b" are taken for "a"
    shares[13] = 0.05, 0.05, 0.0, 0.9
    known = module.Looks(shares, labels, drawings, np.full(30, 0.1))
    classes = {"a": ("a",), "b": ("b",), "c": ("c",), "kind": ("a", "b")}
    strange = np.array([[0.0, 0.0, 0.7, 0.3], [0.0, 0.0, 0.05, 0.95]])
    found = module.claims_at(0.1, classes, "abc", known, known, strange)
    assert set(found.classes) == {"c", "kind"}  # six of ten "b" are found, three of thirteen "a" are none
    assert found.report["claimed"] == 1 and found.report["strangers"] == 0.5
    assert found.report["found"] == 1.0  # a taken "b" is still of its kind
    monkeypatch.setattr(module, "_MOST_CONFUSED", 0.25)
    assert set(module.claims_at(0.1, classes, "abc", known, known, strange).classes) == {"a", "c", "kind"}
    monkeypatch.setattr(module, "_MOST_CONFUSED_UNSEEN", 0.2)
    assert set(module.claims_at(0.1, classes, "abc", known, known, strange).classes) == {"c", "kind"}
