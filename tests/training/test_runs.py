"""Runs: exact resume, a kill in the middle, a clean stop, several processes, usable results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import DENOISER, losses, write

from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError
from smalti.model.words import caption_words
from smalti.storage.folder import load_denoiser, load_image_tokenizer
from smalti.training.config import DenoiserRunConfig, OptimizerConfig, TokenizerRunConfig
from smalti.training.denoiser import train_denoiser
from smalti.training.optimizer import learning_rate
from smalti.training.reading import load_config
from smalti.training.saving import Saver
from smalti.training.tokenizer import train_tokenizer

pytestmark = pytest.mark.slow


def test_a_run_leaves_log_previews_checkpoint_and_model(workspace: Path) -> None:
    words = Path("denoiser/model/words.txt").read_text().splitlines()
    assert words == caption_words(TokenShards("cache").all_captions()) and "a" in words
    for run in ("tokenizer", "denoiser"):
        assert [step for step, _ in losses(run)] == [1, 2, 3, 4, 5, 6]
        assert (workspace / run / "previews" / "step-00000006.png").exists()
        assert [path.name for path in (workspace / run).glob("checkpoint-*")] == ["checkpoint-00000006"]
    tokenizer = load_image_tokenizer("denoiser/model")
    denoiser = load_denoiser("denoiser/model")
    assert denoiser.config.codebook_size == tokenizer.config.codebook_size == 32
    assert denoiser.config.image_size == 32
    last = json.loads((workspace / "tokenizer" / "log.jsonl").read_text().splitlines()[-1])
    assert last["validation_psnr"] > 0 and 0 < last["validation_codes_used"] <= 1


@pytest.mark.parametrize(
    ("kind", "name", "run"),
    [(TokenizerRunConfig, "tokenizer", train_tokenizer), (DenoiserRunConfig, "denoiser", train_denoiser)],
)
def test_resuming_repeats_an_uninterrupted_run_exactly(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, run: object
) -> None:
    whole = losses(name)
    weights = (workspace / name / "checkpoint-00000006" / "weights.safetensors").read_bytes()
    shutil.rmtree(name)
    config = load_config(kind, f"{name}.yaml")
    # A kill at the worst moments: after step 4 was logged, and while the checkpoint of step 6 was being written.
    real, calls = Saver.save, []

    def dies_on_the_second(self: Saver, state: Any, step: int, *rest: Any) -> None:
        calls.append(step)
        if len(calls) == 2:
            (workspace / name / f"checkpoint-{step:08d}.tmp").mkdir()
            raise KeyboardInterrupt
        real(self, state, step, *rest)

    monkeypatch.setattr(Saver, "save", dies_on_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert calls == [3, 6]
    monkeypatch.setattr(Saver, "save", real)
    run(config)
    assert losses(name) == whole
    assert (workspace / name / "checkpoint-00000006" / "weights.safetensors").read_bytes() == weights
    assert not list((workspace / name).glob("*.tmp"))


def test_ctrl_c_leaves_a_checkpoint(workspace: Path) -> None:
    shutil.rmtree("denoiser")
    values = {**DENOISER, "loop": {**DENOISER["loop"], "steps": 100000, "checkpoint_every": 100000}}
    code = (
        "import sys; from smalti.training.config import DenoiserRunConfig;"
        "from smalti.training.denoiser import train_denoiser; from smalti.training.reading import load_config;"
        "train_denoiser(load_config(DenoiserRunConfig, sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, write("long.yaml", values)], stderr=subprocess.PIPE, text=True
    )
    log = workspace / "denoiser" / "log.jsonl"
    deadline = time.monotonic() + 100
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0 and "Traceback" not in errors
    assert "the same command continues from there" in errors
    (checkpoint,) = (workspace / "denoiser").glob("checkpoint-*")
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    assert step >= 3 and checkpoint.name == f"checkpoint-{step:08d}"
    load_denoiser(checkpoint / "model")


def test_checkpoint_of_another_model_is_refused(workspace: Path) -> None:
    with pytest.raises(
        SmaltiError, match="cannot be resumed: model.hidden_size must stay 16, not 32; another"
    ):
        train_denoiser(
            load_config(DenoiserRunConfig, "denoiser.yaml", ["model.hidden_size=32", "loop.steps=8"])
        )
    assert (workspace / "denoiser" / "checkpoint-00000006" / "state.json").exists()


def test_full_disk_keeps_the_checkpoint_before(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smalti.training import state

    def full(tensors: dict, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(SmaltiError, match="cannot write checkpoint .*No space left on device"):
        train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", ["loop.steps=8"]))
    assert [path.name for path in (workspace / "denoiser").glob("checkpoint-*")] == ["checkpoint-00000006"]
    load_denoiser("denoiser/checkpoint-00000006/model")


def test_processes_stop_and_resume_exactly(workspace: Path) -> None:
    loop = {"steps": 16, "batch_size": 2, "accumulate": 2, "processes": 2, "checkpoint_every": 16}
    write("shared.yaml", {**DENOISER, "output": "shared", "loop": {**DENOISER["loop"], **loop}})
    train_denoiser(load_config(DenoiserRunConfig, "shared.yaml"))
    whole = losses("shared")
    shutil.rmtree("shared")
    process = subprocess.Popen([sys.executable, "-m", "smalti", "train", "shared.yaml"])
    deadline = time.monotonic() + 120
    while not Path("shared/log.jsonl").exists() or len(losses("shared")) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert 2 <= len(losses("shared")) < 16
    train_denoiser(load_config(DenoiserRunConfig, "shared.yaml"))
    assert losses("shared") == whole
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="needs a C++ compiler")
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # by the compiler
def test_compiled_layers_learn_the_same(workspace: Path) -> None:
    train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", ["output=compiled", "compile=true"]))
    torch.compiler.reset()
    for (step, found), (_, expected) in zip(losses("compiled"), losses("denoiser"), strict=True):
        assert found == pytest.approx(expected, abs=2e-2), step
    load_denoiser("compiled/model")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_on_the_same_batches(workspace: Path) -> None:
    for place in ("cuda", "cpu"):
        for steps in (6, 8):  # the second goes on from the first
            overrides = [
                f"output={place}",
                f"loop.device={place}",
                "loop.precision=float32",
                f"loop.steps={steps}",
            ]
            train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", [*overrides, "code_network=8"]))
    for (step, found), (_, expected) in zip(losses("cuda"), losses("cpu"), strict=True):
        assert found == pytest.approx(expected, abs=1e-3), step


def test_learning_rate_warms_up_and_decays() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] < 0.1 and max(rates) == pytest.approx(rates[10]) == pytest.approx(1.0)
    assert 0.1 <= rates[-1] < 0.11
