"""A training that is stopped and goes on, in any number of processes; functions that other processes can import."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from trainings import losses

from smalti.errors import SmaltiError
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import DenoiserTask
from smalti.training.distribution import rank
from smalti.training.loop import Trainer
from smalti.training.optimizer import moments, trainable
from smalti.training.preparing import prepare
from smalti.training.reading import load_config
from smalti.training.shards import whole

COMMON = [
    "loop.precision=float32",
    "loop.batch_size=2",
    "loop.accumulate=2",
    "loop.preview_every=100",
    "loop.checkpoint_every=2",
    "validation.images=0",
]


def train(name: str, overrides: list[str], stop_at: int | None = None) -> dict[str, Any]:
    """Train or resume a run, at most to a step; return the losses and all tensors that a checkpoint holds."""
    config = load_config(DenoiserRunConfig, "denoiser.yaml", [*COMMON, f"output={name}", *overrides])
    trainer = Trainer(DenoiserTask(config, prepare(config)), config)
    first = trainer.done
    take = trainer.step
    trainer.step = lambda batches, stop=False: take(batches, stop) or trainer.done == stop_at
    trainer.run()
    tensors = {f"weights {key}": value for key, value in trainable(trainer.task.model).items()}
    tensors |= {f"average {key}": value for key, value in trainer.average.values.items()}
    for key, parameter in trainable(trainer.task.model).items():
        tensors |= {f"{kind} {key}": value for kind, value in moments(trainer.optimizer, parameter).items()}
    return {
        "first": first,
        "losses": losses(name),
        "tensors": {key: whole(value.detach()) for key, value in tensors.items()},
    }


def train_several(cases: dict[str, tuple[list[str], int | None]]) -> dict[str, Any]:
    """Return `train` of each case, by the names of their runs."""
    return {name: train(name, *case) for name, case in cases.items()}


def train_several_then_fill_the_disk(cases: dict[str, tuple[list[str], int | None]]) -> dict[str, Any]:
    """Return `train` of each case, and the message when the disk is full in process 1."""
    found = train_several(cases)
    real = HuggingFaceStorageWriter.write_data

    def full(self: HuggingFaceStorageWriter, *arguments: Any) -> Any:
        if rank() == 1:
            raise OSError(28, "No space left on device")
        return real(self, *arguments)

    HuggingFaceStorageWriter.write_data = full
    try:
        train("full", ["distribution.strategy=fsdp", "loop.steps=2"])
    except SmaltiError as error:
        found["message"] = str(error)
    finally:
        HuggingFaceStorageWriter.write_data = real
    return found


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Compare tensors by name."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=1e-5, atol=tolerance, msg=lambda text, k=key: f"{k}: {text}"
        )
