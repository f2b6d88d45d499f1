"""Checkpoints of a training: all that resuming needs, as safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from smalti.common.files import read_json, write_json_atomic
from smalti.errors import SmaltiError

_PREFIX = "checkpoint-"


def latest_checkpoint(run: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, or None."""
    found = sorted(path for path in run.glob(_PREFIX + "*") if path.is_dir() and path.suffix != ".tmp")
    return found[-1] if found else None


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
        save_file(_optimizer_tensors(model, optimizer), temporary / "optimizer.safetensors")
        export(temporary / "model")
        write_json_atomic(temporary / "state.json", {"step": step, **metadata})
        older = [path for path in run.glob(_PREFIX + "*") if path != temporary]
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
    try:
        model.load_state_dict(load_file(folder / "weights.safetensors"))
        for name, value in load_file(folder / "average.safetensors").items():
            average[name].copy_(value)
        moments = load_file(folder / "optimizer.safetensors")
        for name, parameter in model.named_parameters():
            state = {
                key: moments[f"{name}|{key}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}|{key}" in moments
            }
            if state:
                # The fused optimizer walks through memory, so moments need the memory layout of their parameter.
                moments_of = {
                    key: torch.empty_like(parameter).copy_(value)
                    for key, value in state.items()
                    if key != "step"
                }
                # It also needs the step number on the parameter's device.
                optimizer.state[parameter] = {"step": state["step"].to(parameter.device), **moments_of}
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SmaltiError(f"{folder} cannot be resumed with this configuration: {reason}") from error
    return read_json(folder / "state.json")


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
