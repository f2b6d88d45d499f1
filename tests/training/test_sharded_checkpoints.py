"""Checkpoints of several processes: written whole, in shards, behind the training's back; resumed on any number."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks
from resuming_ranks import same, train, train_several, train_several_then_fill_the_disk
from safetensors import safe_open

from smalti.errors import SmaltiError
from smalti.storage.folder import load_denoiser

pytestmark = pytest.mark.slow

FSDP = ["distribution.strategy=fsdp"]


@pytest.fixture(scope="module")
def place(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "work"
    shutil.copytree(trained, folder)
    return folder


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as context:
        context.chdir(place)
        return train("whole", [])


@pytest.fixture(scope="module")
def two(place: Path, whole: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two processes: a sharded run to step 4, a copied one to step 4, and one that writes in the background."""
    later = [*FSDP, "loop.async_checkpoints=true", "loop.keep_checkpoints=2"]
    cases = {"shards": (FSDP, 4), "copies": ([], 4), "background": (later, None)}
    with pytest.MonkeyPatch.context() as context:
        context.chdir(place)
        folder = tmp_path_factory.mktemp("two")
        first, second = run_ranks(2, train_several_then_fill_the_disk, folder, cases)
    return {**first, "messages": [first["message"], second["message"]]}


def names(run: str) -> list[str]:
    return sorted(path.name for path in Path(run).glob("checkpoint-*"))


def test_shards_are_safetensors_of_a_part_of_the_rows(place: Path, two: dict[str, Any]) -> None:
    folder = place / "shards" / "checkpoint-00000004"
    files = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert not [name for name in files if name.endswith((".pt", ".pth", ".metadata", ".distcp"))]
    shards = sorted((folder / "shards").glob("*.safetensors"))
    assert len(shards) == 2
    for path in shards:
        with safe_open(path, "pt") as file:
            assert file.get_slice("weights|gen_predictor.weight").get_shape()[0] == 16
    load_denoiser(folder / "model")


@pytest.mark.parametrize("run", ["shards", "copies"])
def test_one_process_goes_on_from_two(
    place: Path, whole: dict[str, Any], two: dict[str, Any], run: str, monkeypatch
) -> None:
    monkeypatch.chdir(place)
    shutil.copytree(run, f"{run}-to-1")
    # What a process leaves that is killed while it saves.
    (Path(f"{run}-to-1") / "checkpoint-00000005.tmp" / "shards").mkdir(parents=True)
    found = train(f"{run}-to-1", [])
    assert found["first"] == 4
    assert [step for step, _ in found["losses"]] == [1, 2, 3, 4, 5, 6]
    for (_, ours), (_, expected) in zip(found["losses"], whole["losses"], strict=True):
        assert ours == pytest.approx(expected, abs=2e-6)
    same(found["tensors"], whole["tensors"], 1e-6)
    assert names(f"{run}-to-1") == ["checkpoint-00000006"]


def test_a_full_disk_is_said_by_every_process_and_leaves_nothing(place: Path, two: dict[str, Any]) -> None:
    for message in two["messages"]:
        assert "cannot write checkpoint" in message and "No space left on device" in message
    assert list((place / "full").glob("checkpoint-*")) == []


def test_three_processes_go_on_from_two_and_from_one(
    place: Path, whole: dict[str, Any], two: dict[str, Any], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(place)
    shutil.copytree("shards", "shards-to-3")
    shutil.copytree("copies", "files-to-3")
    cases = {"shards-to-3": (FSDP, None), "files-to-3": (FSDP, None)}
    for rank, found in enumerate(run_ranks(3, train_several, tmp_path, cases)):
        for name, case in found.items():
            assert case["first"] == 4, (name, rank)
            for (_, ours), (_, expected) in zip(case["losses"], whole["losses"], strict=True):
                assert ours == pytest.approx(expected, abs=2e-6)
            same(case["tensors"], whole["tensors"], 1e-6)


def test_checkpoints_in_the_background_are_the_same(
    place: Path, whole: dict[str, Any], two: dict[str, Any], monkeypatch
) -> None:
    monkeypatch.chdir(place)
    assert names("background") == ["checkpoint-00000004", "checkpoint-00000006"]
    same(two["background"]["tensors"], whole["tensors"], 1e-6)
    shutil.copytree("background", "from-background")
    shutil.rmtree("from-background/checkpoint-00000006")
    found = train("from-background", [])
    assert found["first"] == 4
    same(found["tensors"], whole["tensors"], 1e-6)


def test_one_process_writes_in_the_background(place: Path, whole: dict[str, Any], monkeypatch) -> None:
    monkeypatch.chdir(place)
    found = train("alone-background", ["loop.async_checkpoints=true"])
    assert names("alone-background") == ["checkpoint-00000006"]
    same(found["tensors"], whole["tensors"], 0)
    for name in ("weights", "average", "optimizer"):
        ours, expected = (
            Path(run, "checkpoint-00000006", f"{name}.safetensors").read_bytes()
            for run in ("alone-background", "whole")
        )
        assert ours == expected


def test_shards_of_another_model_are_refused(place: Path, two: dict[str, Any], monkeypatch) -> None:
    monkeypatch.chdir(place)
    shutil.copytree("shards", "damaged")
    first, second = sorted(Path("damaged/checkpoint-00000004/shards").glob("*.safetensors"))
    first.write_bytes(second.read_bytes()[:1000])
    with pytest.raises(SmaltiError, match="checkpoint-00000004 cannot be resumed") as caught:
        train("damaged", [])
    assert "\n" not in str(caught.value)
    second.unlink()
    first.unlink()
    with pytest.raises(SmaltiError, match="checkpoint-00000004 cannot be resumed"):
        train("damaged", [])


def test_moments_in_8_bits_survive_a_checkpoint(place: Path, monkeypatch) -> None:
    pytest.importorskip("torchao")
    monkeypatch.chdir(place)
    small = ["optimizer.kind=adamw8bit"]
    expected = train("small-whole", small)
    train("small", small, 4)
    found = train("small", small)
    assert found["first"] == 4
    for (_, ours), (_, loss) in zip(found["losses"], expected["losses"], strict=True):
        assert ours == pytest.approx(loss, abs=2e-6)
    weights = [
        {k: v for k, v in one["tensors"].items() if k.startswith("weights")} for one in (found, expected)
    ]
    same(*weights, 2e-6)  # moments are rounded once more by a checkpoint
