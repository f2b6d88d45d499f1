"""Checkpoints of a training: all that resuming needs, as safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from smalti.common.files import read_json, write_json_atomic
from smalti.errors import SmaltiError

_PREFIX = "checkpoint-"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def latest_checkpoint(run: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, or None. A folder of another name is none of ours."""
    found = [
        path for path in run.glob(_PREFIX + "*") if os.path.isdir(path) and _step_of(path.name) is not None
    ]
    return max(found, key=lambda path: _step_of(path.name) or 0, default=None)


def read_state(folder: Path) -> dict[str, Any]:
    """Return the metadata of a checkpoint: `step`, `entry` and `seconds`, and what else was stored beside them.

    Raises:
        SmaltiError: they cannot be read, or are of another kind.
    """
    state = read_json(folder / "state.json")
    step, entry, seconds = state.get("step"), state.setdefault("entry", {}), state.setdefault("seconds", 0.0)
    wrong = "step" if type(step) is not int or step < 0 else None
    wrong = wrong or (None if isinstance(entry, dict) else "entry")
    if type(seconds) not in (int, float) or not math.isfinite(seconds):
        wrong = wrong or "seconds"
    if wrong:
        raise SmaltiError(f"{folder} cannot be resumed: state.json must hold its {wrong}")
    return state


def save_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    metadata: dict[str, Any],
    export: Callable[[Path], None],
) -> Path:
    """Write a checkpoint folder under a temporary name, rename it, then drop the older ones.

    Args:
        run: folder of the run.
        step: number of steps done.
        model, optimizer: the trained module and its optimizer.
        average: moving average of the weights, by name.
        metadata: the last log entry and other values to restore, stored as JSON beside the step.
        export: function that writes a loadable model folder to the path that it is given.

    Raises:
        SmaltiError: the disk is full or the folder cannot be written; earlier checkpoints stay.
    """
    final = run / f"{_PREFIX}{step:08d}"
    temporary = final.with_suffix(".tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(_plain(model.state_dict()), temporary / "weights.safetensors")
        save_file(_plain(average), temporary / "average.safetensors")
        moments = _optimizer_tensors(model, optimizer)
        save_file(moments, temporary / "optimizer.safetensors")
        export(temporary / "model")
        write_json_atomic(temporary / "state.json", {"step": step, "moments": len(moments), **metadata})
        older = [
            path
            for path in run.glob(_PREFIX + "*")
            if path != temporary and _step_of(path.name.removesuffix(".tmp")) is not None
        ]
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise SmaltiError(f"cannot write checkpoint {final}: {error}") from error
    for path in older:
        shutil.rmtree(path, ignore_errors=True)
    return final


def load_checkpoint(
    folder: Path, model: nn.Module, average: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Restore model, average and optimizer in place, and return the stored metadata (`step` among them).

    Raises:
        SmaltiError: the checkpoint belongs to another model, or a file in it is damaged.
    """
    state = read_state(folder)
    try:
        model.load_state_dict(load_file(folder / "weights.safetensors"))
        found = load_file(folder / "average.safetensors")
        _check_shapes("average.safetensors", found, average)
        if len(found) != len(average):
            raise ValueError(f"average.safetensors has {len(found)} of {len(average)} tensors")
        for name, value in found.items():
            average[name].copy_(value)
        _restore_moments(load_file(folder / "optimizer.safetensors"), state.get("moments"), model, optimizer)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SmaltiError(f"{folder} cannot be resumed with this configuration: {reason}") from error
    return state


def _restore_moments(
    moments: dict[str, torch.Tensor], count: int | None, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put the moments of a checkpoint into the optimizer; raise ValueError if they are those of another model."""
    parameters = dict(model.named_parameters())
    names = {name.rpartition("|")[0] for name in moments}
    shapes = {
        f"{name}|{key}": parameters[name] if key != "step" else torch.zeros(())
        for name in names & set(parameters)
        for key in _MOMENTS
    }
    _check_shapes("optimizer.safetensors", moments, shapes)
    if len(moments) != len(shapes) or (count is not None and len(moments) != count):
        raise ValueError(f"optimizer.safetensors has {len(moments)} of {count or len(shapes)} tensors")
    for name in names:
        parameter = parameters[name]
        # The fused optimizer walks through memory, so moments need the memory layout of their parameter. It also
        # needs the step number on the parameter's device.
        optimizer.state[parameter] = {
            key: moments[f"{name}|{key}"].to(parameter.device)
            if key == "step"
            else torch.empty_like(parameter).copy_(moments[f"{name}|{key}"])
            for key in _MOMENTS
        }


def _check_shapes(file: str, found: dict[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError unless every tensor of a file is expected, with its shape."""
    for name, value in found.items():
        if name not in expected:
            raise ValueError(f"{file} has {name}, which the model lacks")
        if value.shape != expected[name].shape:
            shapes = f"{tuple(expected[name].shape)}, not {tuple(value.shape)}"
            raise ValueError(f"{file}: {name} must be {shapes}")


def _step_of(name: str) -> int | None:
    """Return the step in the name of a checkpoint; None for another name."""
    number = name.removeprefix(_PREFIX)
    return int(number) if number.isascii() and number.isdecimal() and len(number) < 20 else None


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state by parameter and key."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}|{key}"] = value
    return _plain(tensors)


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return contiguous copies on the CPU, because safetensors refuses channels-last weights."""
    return {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}
