"""A step is the same however its images are divided: into batches, over copies of a model, over shards of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from equal_steps import five_steps, several
from ranks import run_ranks

pytestmark = pytest.mark.slow

FSDP = "distribution.strategy=fsdp"
ADAPTER = ["start_from=denoiser/model", "adapter={rank: 2, targets: [q_proj, down_proj, head]}"]
HEAD = ("gen_predictor.weight",)
# 33 codes do not divide by two processes; a layer's matrices do not divide by three.
CASES: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "ddp": (["loop.batch_size=2", "loop.accumulate=2"], ()),
    "fsdp": ([FSDP, "loop.batch_size=2", "loop.accumulate=2"], ()),
    "hybrid": ([FSDP, "distribution.replicas=2", "loop.batch_size=1", "loop.accumulate=4"], ()),
    "fsdp_recomputed": ([FSDP, "loop.batch_size=1", "loop.accumulate=4", "loop.recompute=1"], ()),
    "ddp_frozen": ([], HEAD),
    "fsdp_frozen": ([FSDP], HEAD),
    "ddp_adapter": (ADAPTER, ()),
    "fsdp_adapter": ([FSDP, *ADAPTER], ()),
    "fsdp_started": ([FSDP, "start_from=denoiser/model"], ()),
}
ALONE = {
    "ddp_frozen": "frozen",
    "fsdp_frozen": "frozen",
    "fsdp_started": "started",
    "ddp_adapter": "adapter",
    "fsdp_adapter": "adapter",
}


def compare(found: dict[str, Any], expected: dict[str, Any], name: str) -> None:
    for key in ("gradient", "weights", "average"):
        assert found[key].keys() == expected[key].keys()
        for tensor, value in expected[key].items():
            message = f"{name}: {key} of {tensor}"
            torch.testing.assert_close(
                found[key][tensor], value, rtol=1e-5, atol=1e-6, msg=lambda text, m=message: f"{m}: {text}"
            )
    torch.testing.assert_close(
        torch.tensor(found["losses"]), torch.tensor(expected["losses"]), rtol=0, atol=2e-6
    )
    assert found["validation"] == pytest.approx(expected["validation"], abs=2e-6), name


@pytest.fixture(scope="module")
def place(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    folder = tmp_path_factory.mktemp("steps") / "work"
    shutil.copytree(trained, folder)
    return folder


@pytest.fixture(scope="module")
def alone(place: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as context:
        context.chdir(place)
        return {
            "all": five_steps("whole", []),
            "frozen": five_steps("whole_frozen", [], HEAD),
            "adapter": five_steps("whole_adapter", ADAPTER),
            "started": five_steps("whole_started", ["start_from=denoiser/model"]),
        }


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_batches_of_any_size_add_up(place: Path, alone: dict[str, Any], batch: int, monkeypatch) -> None:
    monkeypatch.chdir(place)
    # Four images a step, whatever the batch: 4 × 1, 2 × 2, and 3 + 1.
    overrides = {1: ["loop.batch_size=1", "loop.accumulate=4"], 2: ["loop.batch_size=2", "loop.accumulate=2"]}
    if batch == 3:
        monkeypatch.setattr("smalti.training.loop.divide", divide_unevenly)
    found = five_steps(f"batches_{batch}", overrides.get(batch, []))
    compare(found, alone["all"], f"batches of {batch}")


def divide_unevenly(step: int, images: int, batch_size: int, shapes: Any) -> Any:
    from smalti.training.engine import divide

    return divide(step, images, 3, shapes)


def test_two_processes(place: Path, alone: dict[str, Any], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    for rank, found in enumerate(run_ranks(2, several, tmp_path, CASES)):
        for name, case in found.items():
            compare(case, alone[ALONE.get(name, "all")], f"{name} in process {rank}")
        for key, count in found["fsdp"]["bytes"].items():
            assert count == pytest.approx(alone["all"]["bytes"][key] / 2, rel=0.05), key


def test_four_processes_hold_a_quarter_each(
    place: Path, alone: dict[str, Any], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(place)
    cases = {"quarter": ([FSDP, "loop.steps=1", "loop.batch_size=1", "loop.accumulate=4"], ())}
    for found in run_ranks(4, several, tmp_path, cases):
        for key, count in found["quarter"]["bytes"].items():
            assert count == pytest.approx(alone["all"]["bytes"][key] / 4, rel=0.05), key


def test_three_processes_one_of_them_without_images(
    place: Path, alone: dict[str, Any], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(place)
    few = ["loop.batch_size=2"]
    cases = {
        "uneven_ddp": ([], ()),
        "uneven_fsdp": ([FSDP], ()),
        "empty_ddp": (few, ()),
        "empty_fsdp": ([FSDP, *few], ()),
    }
    expected = {"empty": five_steps("few", few), "uneven": alone["all"]}
    for rank, found in enumerate(run_ranks(3, several, tmp_path, cases)):
        for name, case in found.items():
            compare(case, expected[name.partition("_")[0]], f"{name} in process {rank}")
