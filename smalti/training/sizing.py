"""The size of a model before it is built: what its configuration says against the memory and the weights that exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from smalti.common.host import host_bytes
from smalti.errors import SmaltiError
from smalti.runtime.memory import gigabytes
from smalti.storage.folder import NoInit

# Bytes of a parameter in training: weight, gradient, two moments and the moving average, in float32.
_TRAINED_BYTES = 20
_BUILT_BYTES = 4


def outline(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a module's tensors by name; nothing is allocated.

    Example:
        >>> outline(lambda: nn.Linear(2, 10**9))
        {'weight': (1000000000, 2), 'bias': (1000000000,)}
    """
    with torch.device("meta"), NoInit():
        module = build()
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def check_room(shapes: Mapping[str, tuple[int, ...]], device: torch.device, room: int | None = None) -> None:
    """Raise SmaltiError if the memory cannot hold a model that is trained.

    Args:
        shapes: shapes of its tensors.
        device: device of the training. A model is built on the CPU and then moved.
        room: free bytes of the host's memory; None asks the system.
    """
    room = host_bytes() if room is None else room
    count = sum(torch.Size(shape).numel() for shape in shapes.values())
    needed = count * (_TRAINED_BYTES if device.type == "cpu" else _BUILT_BYTES)
    if room is not None and needed > room:
        raise SmaltiError(
            f"model must fit into the memory: {count:,} parameters need {gigabytes(needed)} in training, "
            f"and {gigabytes(room)} are free"
        )


def check_shapes(
    shapes: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], folder: str
) -> None:
    """Raise SmaltiError if a model that training starts from has tensors of other shapes.

    Args:
        shapes: shapes of the tensors by the configuration.
        found: shapes of those in the folder.
        folder: name of the folder, for the error.
    """
    for name in sorted({*shapes, *found}):
        if shapes.get(name) != found.get(name):
            ours, theirs = (sizes.get(name, "missing") for sizes in (shapes, found))
            raise SmaltiError(
                f"start_from: {folder} must have the shape that the model section describes, "
                f"but {name} is {theirs}, not {ours}"
            )
