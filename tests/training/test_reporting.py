"""Logs beside the JSON lines, the loss on unseen images, and a check without a training."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from trainings import is_message, make_task

from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import train_denoiser
from smalti.training.loop import Trainer
from smalti.training.reading import load_config
from smalti.training.reporting import Log

pytestmark = pytest.mark.slow


class Recorder:
    """Stands for the packages that need not be installed."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []
        self.images: list[int] = []
        self.closed = False


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            Path(folder).mkdir(parents=True)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            recorder.scalars.append((name, value, step))

        def add_image(self, name: str, image: Any, step: int, dataformats: str) -> None:
            assert image.ndim == 3 and dataformats == "HWC"
            recorder.images.append(step)

        def flush(self) -> None:
            pass

        def close(self) -> None:
            recorder.closed = True

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return recorder


def test_tensorboard_gets_every_number_and_image(workspace: Path, board: Recorder) -> None:
    overrides = ["output=board", "loop.log_to=[tensorboard]", "loop.steps=2", "loop.preview_every=1"]
    train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", overrides))
    entries = [json.loads(line) for line in Path("board/log.jsonl").read_text().splitlines()]
    expected = [
        (name, value, entry["step"]) for entry in entries for name, value in entry.items() if name != "step"
    ]
    assert board.scalars == expected and board.images == [0, 1, 2] and board.closed
    names = {name for name, _, _ in board.scalars}
    assert {"loss", "images_per_second", "peak_memory_gb", "product_share", "validation_loss"} <= names


def test_weights_and_biases_go_on_with_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []

    class Run:
        id = "abc"

        def log(self, values: dict[str, float], step: int) -> None:
            started[-1].setdefault("logged", []).append((step, values))

        def finish(self) -> None:
            started[-1]["finished"] = True

    def init(**options: Any) -> Run:
        started.append(options)
        return Run()

    module = types.ModuleType("wandb")
    module.init, module.Image = init, str  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    for _ in range(2):
        log = Log(tmp_path, 0, ["wandb"], {"seed": 0})
        log.write({"step": 3, "loss": 1.5})
        log.close()
    assert [options["id"] for options in started] == [None, "abc"]
    assert started[1]["logged"] == [(3, {"loss": 1.5})] and started[1]["finished"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_one_line(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SmaltiError, match=f"loop.log_to: {name} is not installed: pip install {name}"):
        Log(tmp_path, 0, [name], {})


def test_the_loss_on_unseen_images_is_the_same_in_batches_of_any_size(workspace: Path) -> None:
    found = []
    for size in (1, 2, 5):
        task = make_task("output=held", f"loop.batch_size={size}", "validation.images=5")
        task.model.eval()
        with torch.no_grad():
            found.append(task.validate())
        assert task.held_out.count == 5
    assert set(found[0]) == {
        "validation_loss", *(f"validation_loss_{ratio}" for ratio in ("0.1", "0.3", "0.5", "0.7", "0.9", "1"))
    }  # fmt: skip
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=2e-5)


def test_a_folder_has_unseen_images_only_where_one_is_named(workspace: Path) -> None:
    for name in ("seen", "unseen"):
        Path(name).mkdir()
        for index in range(2):
            Image.new("RGB", (32, 32), (90 * index, 0, 99)).save(f"{name}/{index}.png")
            Path(f"{name}/{index}.txt").write_text("something red")
    data = ["data={kind: folder, path: seen, size: 32}", "cache={path: folder-cache, samples: 2}"]
    assert make_task("output=a", *data).validate() == {}
    task = make_task("output=b", *data, "validation.path=unseen")
    with torch.no_grad():
        assert task.validate()["validation_loss"] > 0
    with pytest.raises(SmaltiError, match="validation.path.*missing is not a folder"):
        make_task("output=c", *data, "validation.path=missing")


def test_previews_and_measurements_are_of_the_average_and_leave_the_weights(workspace: Path) -> None:
    task = make_task("output=average", "loop.steps=2")
    trainer = Trainer(task, task.config)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    with torch.no_grad():
        for value in trainer.average.values.values():
            value.mul_(1.1)
    found = trainer.preview(workspace / "grid.png")
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    with torch.no_grad():
        assert task.validate() != found
        for name, parameter in task.model.named_parameters():
            parameter.copy_(trainer.average.values[name])
        assert task.validate() == found


def test_a_dry_run_checks_and_leaves_nothing(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = sorted(path for path in Path().rglob("*"))
    assert main(["train", "denoiser.yaml", "--dry-run", "output=dry", "loop.accumulate=2"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("ready: 6 steps of 8 images from the start, 1 × cpu; 10 images are in cache")
    assert "memory on cpu, computed" in said.err
    assert main(["train", "denoiser.yaml", "--dry-run", "loop.steps=9"]) == 0
    assert "3 steps of 4 images from step 6" in capsys.readouterr().out
    assert main(["train", "denoiser.yaml", "--dry-run", "output=dry", "cache.path=new"]) == 0
    assert "10 images will be encoded into new first" in capsys.readouterr().out
    assert main(["train-tokenizer", "tokenizer.yaml", "--dry-run", "output=dry"]) == 0
    assert "parameters" in capsys.readouterr().out
    assert sorted(path for path in Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.num_key_value_heads=3"], "num_key_value_heads"),
        (["start_from=denoiser/model", "model.hidden_size=32"], "must have the shape"),
        (["tokenizer=nowhere"], "tokenizer: model folder nowhere does not exist"),
        (["distribution.strategy=fsdp"], "needs torchrun or loop.processes=2 or more"),
        (["distribution.replicas=2"], "distribution.replicas needs distribution.strategy=fsdp"),
        (["loop.log_to=[wandb]"], "loop.log_to: wandb is not installed"),
        (["loop.memory=1MB"], "the training needs 9.* MB on cpu, which has 1.0 MB"),
        (["loop.memory=much"], "loop.memory: memory must be a size such as 8GB"),
        (["data.seed=9"], "cache holds a cache of other images: its data differ"),
        (["loop.device=cuda:9"], "smalti: loop.device must be one that PyTorch has here"),
    ],
)
def test_a_dry_run_names_what_is_wrong(
    workspace: Path, overrides: list[str], message: str, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    import re

    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["train", "denoiser.yaml", "--dry-run", "output=dry", *overrides]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if is_message(line)]
    assert len(lines) == 1 and re.search(message, lines[0]), lines
    assert not Path("dry").exists()


def test_what_does_not_fit_names_what_would(workspace: Path, capsys: pytest.CaptureFixture) -> None:
    large = ["loop.batch_size=512", "loop.memory=60MB", "output=large", "--dry-run"]
    assert main(["train", "denoiser.yaml", *large]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if is_message(line)]
    hint = line.rpartition(": ")[2].partition(" needs ")[0].split()
    assert hint and main(["train", "denoiser.yaml", *large[1:], *hint, "--dry-run"]) == 0
