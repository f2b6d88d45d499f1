"""The trainer's steps: the same gradient however a step's images are divided."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from counting_task import STEPS, make_config, run
from safetensors.torch import load_file

from smalti.errors import SmaltiError
from smalti.training.config import RunConfig
from smalti.training.launching import spread

pytestmark = pytest.mark.slow


def steps_of(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses and gradient norms of the log, and the last weights."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    entries = [entry for entry in entries if "loss" in entry]
    numbers = torch.tensor([[entry["loss"], entry["gradient_norm"]] for entry in entries])
    (checkpoint,) = folder.glob("checkpoint-*")
    return numbers, load_file(checkpoint / "weights.safetensors")["head.weight"]


@pytest.mark.parametrize(("accumulate", "processes"), [(2, 1), (4, 1), (4, 2)])
def test_a_step_is_the_same_in_one_batch_in_several_and_in_two_processes(
    tmp_path: Path, accumulate: int, processes: int
) -> None:
    run(make_config(str(tmp_path / "whole"), 1, 1))
    spread(run, make_config(str(tmp_path / "parts"), accumulate, processes))
    (numbers, weights), (expected_numbers, expected_weights) = (
        steps_of(tmp_path / name) for name in ("parts", "whole")
    )
    assert len(numbers) == STEPS
    torch.testing.assert_close(numbers, expected_numbers, rtol=0, atol=1.1e-4)  # the log rounds norms
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-6)


class EndsWhereItIsRead:
    """A function that a process cannot be started with: to read it ends the process."""

    def __call__(self, config: RunConfig) -> dict[str, Any]:
        raise AssertionError("the training must not begin")

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (3,)


def test_a_process_that_ends_before_it_joins_is_reported_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(SmaltiError, match="process [01] of the training ended early, with exit code 3"):
        spread(EndsWhereItIsRead(), make_config(str(tmp_path), 2, 2))
    assert time.monotonic() - started < 60
    assert not torch.distributed.is_initialized()
