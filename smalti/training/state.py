"""What a checkpoint holds: the trained weights, their average, the optimizer's moments, as safetensors and JSON.

A process that has the whole model writes three files. Processes that have shards write `shards/` together by
`torch.distributed.checkpoint`, in safetensors as well. Any number of processes reads both, whole or sharded. The files
hold trained tensors alone; what stays as it was, such as the base of an adapter, is read from where it came from.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from smalti.common.checks import quoted
from smalti.common.files import read_json
from smalti.errors import SmaltiError
from smalti.training.optimizer import MOMENTS, MovingAverage, moments, trainable
from smalti.training.shards import like, local

SHARDS = "shards"
"""Name of the folder that processes with shards write."""

FORMAT = 1
"""Version of what a checkpoint holds. One without a version is of the first versions of Smalti, and is read."""

FILES = ("weights", "average", "optimizer")
_PREFIX = "checkpoint-"


@dataclass(frozen=True, eq=False)
class TrainingState:
    """The tensors that change in training.

    Attributes:
        model: the model; its trained parameters are saved.
        average: the moving average of the weights.
        optimizer: the optimizer, for its moments.
    """

    model: nn.Module
    average: MovingAverage
    optimizer: torch.optim.Optimizer

    def tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the tensors by name, for each of `FILES`."""
        weights = trainable(self.model)
        return {
            "weights": {name: value.detach() for name, value in weights.items()},
            "average": dict(self.average.values),
            "optimizer": {
                f"{name}|{key}": value
                for name, parameter in weights.items()
                for key, value in moments(self.optimizer, parameter).items()
            },
        }


def step_of(name: str) -> int | None:
    """Return the step in the name of a checkpoint; None for another name."""
    number = name.removeprefix(_PREFIX)
    fits = name.startswith(_PREFIX) and number.isascii() and number.isdecimal() and len(number) < 20
    return int(number) if fits else None


def checkpoint_path(run: Path, step: int) -> Path:
    """Return the folder of a checkpoint."""
    return run / f"{_PREFIX}{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """Return the complete checkpoints of a run, the newest last. A folder of another name is none of ours."""
    found = [
        path for path in run.glob(_PREFIX + "*") if os.path.isdir(path) and step_of(path.name) is not None
    ]
    return sorted(found, key=lambda path: step_of(path.name) or 0)


def latest_checkpoint(run: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, or None."""
    return next(reversed(checkpoints(run)), None)


def read_state(folder: Path) -> dict[str, Any]:
    """Return the metadata of a checkpoint: `step`, `entry` and `seconds`, and what else was stored beside them.

    Raises:
        SmaltiError: they cannot be read, are of another kind, or were written by a later version.
    """
    state = read_json(folder / "state.json")
    version = state.get("format", 0)
    if type(version) is not int or not 0 <= version <= FORMAT:
        raise SmaltiError(
            f"{folder} cannot be resumed: its format is {quoted(version)}, and this version of Smalti knows formats up "
            f"to {FORMAT}; resume with the version that wrote it, or choose another output"
        )
    step, entry, seconds = state.get("step"), state.setdefault("entry", {}), state.setdefault("seconds", 0.0)
    wrong = "step" if type(step) is not int or step < 0 else None
    wrong = wrong or (None if isinstance(entry, dict) else "entry")
    if type(seconds) not in (int, float) or not math.isfinite(seconds):
        wrong = wrong or "seconds"
    if wrong:
        raise SmaltiError(f"{folder} cannot be resumed: state.json must hold its {wrong}")
    return state


def plain(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return contiguous copies on the CPU, because safetensors refuses channels-last weights."""
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }


def write_files(folder: Path, tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Write the tensors of `TrainingState.tensors`, which are on the CPU, to three files."""
    for name, part in tensors.items():
        save_file(dict(part), folder / f"{name}.safetensors")


def moment_keys() -> tuple[str, ...]:
    """Return what a checkpoint holds of each parameter: its number of steps and the moments."""
    return ("step", *MOMENTS)


def moment_names(found: set[str], weights: Mapping[str, torch.Tensor], count: int | None) -> list[str]:
    """Return the names of the parameters whose moments a checkpoint holds.

    Args:
        found: names of the checkpoint's tensors, "PARAMETER|KEY".
        weights: the trained parameters.
        count: number of tensors that the checkpoint says it has, or None.

    Raises:
        ValueError: they are those of another model.
    """
    names = {name.rpartition("|")[0] for name in found}
    for name in found:
        if name.rpartition("|")[0] not in weights or name.rpartition("|")[2] not in moment_keys():
            raise ValueError(f"optimizer.safetensors has {name}, which the model lacks")
    if len(found) != len(moment_keys()) * len(names) or (count is not None and len(found) != count):
        raise ValueError(f"optimizer.safetensors has {len(found)} of {count or 3 * len(names)} tensors")
    return sorted(names)


def moment_like(parameter: torch.Tensor, key: str) -> torch.Tensor:
    """Return room for a moment of a parameter in float32, sharded like it, or for its number of steps."""
    if key == "step":
        return torch.zeros(())
    part = local(parameter)
    # Shards are wherever their mesh is; other moments go through the CPU, where there is room.
    device = part.device if isinstance(parameter, DTensor) else "cpu"
    return like(parameter, torch.empty_like(part, dtype=torch.float32, device=device))


def check_names(
    file: str,
    found: Mapping[str, tuple[int, ...]],
    needed: Mapping[str, torch.Tensor],
    known: Mapping[str, torch.Tensor],
) -> list[str]:
    """Return the needed names; raise ValueError unless all are found with their shapes, and none that is not known.

    Args:
        file: name for errors.
        found: shapes by name.
        needed: the tensors that must be there.
        known: the tensors that may be there.
    """
    for name, shape in found.items():
        if name not in known:
            raise ValueError(f"{file} has {name}, which the model lacks")
        if shape != tuple(known[name].shape):
            raise ValueError(f"{file}: {name} must be {tuple(known[name].shape)}, not {shape}")
    if missing := sorted(set(needed) - set(found)):
        held = len(set(needed) & set(found))
        raise ValueError(f"{file} has {held} of {len(needed)} tensors; {missing[0]} is missing")
    return list(needed)


def tensors_of(state: TrainingState) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors of a state with the names that they have in `shards/`."""
    for file, part in state.tensors().items():
        for name, value in part.items():
            yield f"{file}|{name}", value
