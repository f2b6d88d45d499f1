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
from objects_archive import NOUNS, untrained_scorer, write_shapes

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
def test_parts_share_no_drawing(tool: ModuleType, archive: Path) -> None:
    material = sys.modules["scorer_material"].Material.read(archive)
    assert material.nouns == tuple(sorted(NOUNS))
    for label in range(len(NOUNS)):
        train, aside, test = (set(material.parts[part][label]) for part in ("train", "validation", "test"))
        assert train and aside and test and not (train & aside or train & test or aside & test)
        assert set(material.parts["all"][label]) == train | aside
    places, labels = material.crops(50, "train", torch.Generator().manual_seed(0))
    for place, label in zip(places, labels, strict=True):
        assert material.collection.archive.sprites[place].noun == material.nouns[label]


@pytest.mark.slow
def test_scenes_have_cover_and_centres(tool: ModuleType, archive: Path) -> None:
    batches = sys.modules["scorer_batches"]
    material = sys.modules["scorer_material"].Material.read(archive)
    generator = torch.Generator().manual_seed(0)
    images, cover, offsets = batches.scenes(
        material.sprites, np.array([[0, -1], [-1, -1], [1, 2]]), generator, 128
    )
    assert images.shape == (3, 3, 128, 128) and 0 <= images.min() and images.max() <= 1
    assert cover.shape == (3, 1, 32, 32) and offsets.shape == (3, 2, 32, 32)
    assert cover[1].max() == 0 and cover[0].max() > 0.99
    # Offsets point from every cell to one centre.
    line = torch.arange(32.0)
    inside = cover[0, 0] > 0.5
    assert (offsets[0, 0] + line[None, :])[inside].std() < 1e-3
    assert (offsets[0, 1] + line[:, None])[inside].std() < 1e-3


@pytest.mark.slow
def test_a_training_goes_on_where_it_stopped(
    tool: ModuleType, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "_SCENES", 2)
    monkeypatch.setattr(tool, "_CROPS", 8)
    monkeypatch.setattr(tool, "_JUNK", 6)
    monkeypatch.setattr(tool, "_HARVESTED", 3)
    material = sys.modules["scorer_material"].Material.read(archive)

    def run(folder: str, start: Path | None = None) -> dict[str, torch.Tensor]:
        output = tmp_path / f"{folder}.safetensors"
        options = Namespace(
            seed=0,
            work=tmp_path / folder,
            json=True,
            start=start,
            tokenizer=None,
            harvest=4,
            scene_steps=2,
            crop_steps=3,
            last_steps=2,
            output=output,
        )
        found = tool.train(options, material)
        assert found["nouns"] == len(NOUNS)
        return dict(load_scorer(output).classifier.state_dict())

    whole = run("whole")
    stopped = sys.modules["scorer_training"]
    monkeypatch.setattr(stopped, "_SAVED", -1)
    saves = []
    save = stopped._save

    def stop(path: Path, step: int, *rest: object) -> None:
        save(path, step, *rest)
        saves.append(path.name)
        if saves.count("classifier.safetensors") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(stopped, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    monkeypatch.setattr(stopped, "_save", save)
    parts = run("parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    again = run("again", tmp_path / "whole.safetensors")
    assert not all(torch.equal(whole[name], again[name]) for name in whole)


def test_weights_are_carried_to_other_nouns(tool: ModuleType) -> None:
    scorer = untrained_scorer()
    carried = tool.carried(scorer, ("kite", "yak", "ball"))
    head, old = carried.head.weight, scorer.classifier.head.weight
    assert torch.equal(head[0], old[NOUNS.index("kite")]) and torch.equal(head[3], old[-1])
    assert torch.allclose(head[1], old.mean(0))
    assert torch.equal(carried.stem[0].weight, scorer.classifier.stem[0].weight)


@pytest.mark.slow
def test_things_are_harvested_from_scenes(
    tool: ModuleType, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["scorer_harvest"]
    material = sys.modules["scorer_material"].Material.read(archive)
    scenes = module.Objects(material.collection.archive, seed=module._SEED, lattice=16, lattice_share=0.3)
    things = [thing for index in range(6) for thing in scenes.scene(index).things]

    def perfect(pixels: torch.Tensor, _: object) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Return the boxes of the next scene's things."""
        own = scenes.scene(perfect.index).things
        perfect.index += 1
        boxes = [(t.x - t.size / 2, t.y - t.size / 2, t.x + t.size / 2, t.y + t.size / 2) for t in own]
        return torch.rand(len(own), 4, 40, 40), torch.empty(0), np.array(boxes) * 256

    perfect.index = 0
    monkeypatch.setattr(module, "cut_things", perfect)
    path = tmp_path / "harvest.safetensors"
    made = module.harvest(material, None, None, 6, 0, path, False)
    assert [material.nouns[label] for label in made.labels] == [thing.noun for thing in things]
    again = module.harvest(material, None, None, 6, 0, path, False)
    assert torch.equal(made.crops, again.crops)
    crops, labels = made.batch(5, torch.Generator().manual_seed(0))
    assert crops.shape == (5, 4, 40, 40) and 0 <= crops.min() and crops.max() <= 1 and labels.shape == (5,)


def test_claims_need_recall_and_precision(tool: ModuleType) -> None:
    module = sys.modules["scorer_claims"]
    labels = np.repeat([0, 1, 2], 10)
    said = labels.copy()
    said[10:13] = 0  # three of ten "b" are taken for "a"
    known = module.Looks(said, np.full(30, 0.8), labels, np.full(30, 0.1))
    nobody = module.Looks(np.array([3]), np.array([0.9]), np.array([3]), np.ones(1))
    assert module.claims_at(0.5, "abc", known, nobody).nouns == ("c",)
    assert module.claims_at(0.9, "abc", known, nobody).nouns == ()
    stranger = module.Looks(np.array([2, 3]), np.array([0.7, 0.9]), np.array([3, 3]), np.ones(2))
    assert module.claims_at(0.5, "abc", known, stranger).nouns == ()
    assert module.claims_at(0.75, "abc", known, stranger).nouns == ("c",)
    assert module.claims_at(0.75, "abc", known, stranger).report["strangers"] == 0
    weights = module.drawing_weights([[(1, 2), (3,)], [(4,)]])
    assert weights.tolist() == [0.25, 0.25, 0.5, 1.0]
