"""What a resumed training may change, and what it makes of damaged files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from counting_task import STEPS, CountingTask, make_config
from safetensors.torch import load_file, save_file

from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.training.config import RunConfig
from smalti.training.launching import spread
from smalti.training.loop import Trainer
from smalti.training.state import latest_checkpoint

pytestmark = pytest.mark.slow


def run(config: RunConfig) -> dict[str, Any]:
    return Trainer(CountingTask(config), config).run()


def changed(config: RunConfig, key: str, value: object) -> RunConfig:
    section, _, name = key.rpartition(".")
    if not section:
        return config.model_copy(update={name: value})
    part = getattr(config, section).model_copy(update={name: value})
    return config.model_copy(update={section: part})


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    config = changed(make_config(str(tmp_path / "run"), 1, 1), "loop.steps", 3)
    spread(run, config)
    return config


def entries(config: RunConfig) -> list[int]:
    return [json.loads(line)["step"] for line in (Path(config.output) / "log.jsonl").read_text().splitlines()]


def checkpoint(config: RunConfig) -> Path:
    found = latest_checkpoint(Path(config.output))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loop.steps", STEPS),
        ("loop.log_every", 2),
        ("loop.preview_every", 1),
        ("loop.checkpoint_every", 1),
        ("loop.device", "cpu:0"),
        ("output", None),
    ],
)
def test_what_may_change(config: RunConfig, key: str, value: object) -> None:
    if key == "output":
        value = config.output + " elsewhere"
        Path(config.output).rename(value)
    last = spread(run, changed(changed(config, "loop.steps", 4), key, value))
    assert last["step"] >= 4


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 7, "seed must stay 0, not 7"),
        ("optimizer.ema_decay", 0.5, "optimizer.ema_decay must stay 0.999, not 0.5"),
        ("optimizer.betas", (0.5, 0.95), r"optimizer.betas must stay \[0.9, 0.95\], not \[0.5, 0.95\]"),
        ("loop.batch_size", 2, "loop.batch_size · loop.accumulate must stay 4, not 2"),
        ("loop.accumulate", 2, "loop.batch_size · loop.accumulate must stay 4, not 8"),
        ("loop.precision", "bf16", "loop.precision must stay 'float32', not 'bf16'"),
    ],
)
def test_what_may_not_change_is_named(config: RunConfig, key: str, value: object, message: str) -> None:
    with pytest.raises(SmaltiError, match=f"checkpoint-00000003 cannot be resumed: {message}; another"):
        spread(run, changed(changed(config, "loop.steps", 4), key, value))
    assert entries(config) == [1, 2, 3]


def test_sections_and_free_fields_are_compared(config: RunConfig) -> None:
    data = config.data.model_copy(update={"mix": {"counting": 1.0}})
    with pytest.raises(
        SmaltiError, match="cannot be resumed: data.mix must stay null, not {'counting': 1.0}"
    ):
        spread(run, changed(config, "data", data))


def test_other_images_are_refused(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountingTask, "data", "other numbers")
    with pytest.raises(SmaltiError, match="cannot be resumed: it was trained on other images or captions"):
        spread(run, changed(config, "loop.steps", 4))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_complete_run_says_so_and_writes_its_model(
    config: RunConfig, steps: int, capsys: pytest.CaptureFixture
) -> None:
    (Path(config.output) / "model").rmdir()
    assert spread(run, changed(config, "loop.steps", steps))["step"] == 3
    assert (Path(config.output) / "model").is_dir()
    assert f"is complete: 3 of {steps} steps are done" in capsys.readouterr().err


@pytest.mark.parametrize(
    "end",
    [
        b'{"step": 9',
        b"\0" * 50,
        b"[1]\n",
        b"{}\n",
        b'{"step": "x"}\n',
        b"\xff\n",
        b"[" * 100_000,
        b'{"step": 9}\n',
    ],
)
def test_odd_ends_of_a_log_are_dropped(config: RunConfig, end: bytes) -> None:
    log = Path(config.output) / "log.jsonl"
    log.write_bytes(log.read_bytes() + end)
    spread(run, changed(config, "loop.steps", 4))
    assert entries(config) == [1, 2, 3, 4]


def test_a_run_without_a_checkpoint_starts_its_log_again(tmp_path: Path) -> None:
    config = make_config(str(tmp_path / "run"), 1, 1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    spread(run, config)
    assert entries(config) == list(range(1, STEPS + 1))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{}", "must hold its step"),
        ("[]", "JSON object"),
        ('{"step": true}', "must hold its step"),
        ('{"step": 3, "entry": 5}', "must hold its entry"),
        ('{"step": 3, "seconds": "x"}', "must hold its seconds"),
        ('{"step": 3, "seconds": NaN}', "must hold its seconds"),
        ('{"step": 3, "config": 5}', "its configuration is not valid"),
        ('{"step": 3, "config": {"output": "x"}}', "its configuration is not valid: loop is missing"),
        ('{"step"', "not readable JSON|not JSON"),
    ],
)
def test_odd_states_are_named(config: RunConfig, state: str, message: str) -> None:
    (checkpoint(config) / "state.json").write_text(state)
    with pytest.raises(SmaltiError, match=message) as caught:
        spread(run, config)
    assert "\n" not in str(caught.value)


def other_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"other.{name}": value for name, value in tensors.items()}


def other_shapes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value[:1].clone() if value.ndim else value for name, value in tensors.items()}


def nothing(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {}


@pytest.mark.parametrize("file", ["optimizer", "average", "weights"])
@pytest.mark.parametrize("change", [other_names, other_shapes, nothing])
def test_tensors_of_another_model_are_refused(config: RunConfig, file: str, change: Callable) -> None:
    path = checkpoint(config) / f"{file}.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(SmaltiError, match="cannot be resumed with this configuration") as caught:
        spread(run, changed(config, "loop.steps", 4))
    assert "\n" not in str(caught.value)


def test_folders_of_other_names_are_left_alone(config: RunConfig) -> None:
    for name in ("checkpoint-best", "checkpoint-00000002-copy", "checkpoint-"):
        (Path(config.output) / name).mkdir()
    spread(run, changed(config, "loop.steps", 4))
    names = {path.name for path in Path(config.output).glob("checkpoint-*")}
    assert names == {"checkpoint-best", "checkpoint-00000002-copy", "checkpoint-", "checkpoint-00000004"}


def test_one_process_trains_in_a_folder(config: RunConfig) -> None:
    code = (
        "import sys; from pathlib import Path; from smalti.training.resuming import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print(1, flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, config.output], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None and other.stdout.readline() == "1\n"
        with pytest.raises(SmaltiError, match=f"another process trains in {config.output}"):
            spread(run, changed(config, "loop.steps", 4))
        other.kill()
    assert spread(run, changed(config, "loop.steps", 4))["step"] == 4


def test_a_folder_that_a_wrong_training_made_is_removed(tmp_path: Path) -> None:
    def fails(config: RunConfig) -> dict[str, Any]:
        raise SmaltiError("no")

    with pytest.raises(SmaltiError, match="^no$"):
        spread(fails, make_config(str(tmp_path / "run"), 1, 1))
    assert not (tmp_path / "run").exists()
    with pytest.raises(SmaltiError, match="output: cannot write /dev/null"):
        spread(fails, make_config("/dev/null", 1, 1))


def test_a_stopped_training_ends_like_ctrl_c(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smalti.training import loop

    arguments = ["train", "denoiser.yaml", "output=stopped", "loop.log_every=4"]
    real = Trainer.step

    def stops(self: Trainer, batches: Any, stop: bool = False) -> bool:
        return real(self, batches, stop) or self.done == 2

    monkeypatch.setattr(loop.Trainer, "step", stops)
    assert main(arguments) == 130
    monkeypatch.setattr(loop.Trainer, "step", real)
    assert main([*arguments, "loop.steps=2"]) == 0
    assert main(arguments) == 0
    assert threading.active_count() < 50


@pytest.mark.parametrize("file", ["optimizer", "average", "weights"])
def test_a_pipe_in_a_checkpoint_is_refused_at_once(config: RunConfig, file: str) -> None:
    path = checkpoint(config) / f"{file}.safetensors"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SmaltiError, match=f"cannot be resumed: .*{file}.safetensors is not a regular file"):
        spread(run, config)


@pytest.mark.parametrize("name", ["log.jsonl", ".lock"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_a_run_is_refused_at_once(
    config: RunConfig, name: str, make: Callable[[Path], None]
) -> None:
    path = Path(config.output) / name
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(SmaltiError, match=f"{name} is not a regular file"):
        spread(run, changed(config, "loop.steps", 4))
