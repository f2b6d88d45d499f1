"""Files of light layers: one small safetensors file, with a fingerprint of the model that it belongs to."""

from __future__ import annotations

import os
from pathlib import Path

from smalti.common.checks import quoted
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.model.light import LightLayer
from smalti.storage.adapters import base_fingerprint, check_base
from smalti.storage.small_files import read_small, write_small

LIGHT = "smalti_light"
"""Key in the metadata of a light layer's file."""

_BASE = "smalti_base"


def save_light(light: LightLayer, path: str | Path, *, base: str | Path | None = None) -> None:
    """Write a light layer, whole or not at all.

    Args:
        light: the layer.
        path: the file, which ends in .safetensors.
        base: folder of the model that it was trained for; None lets any model of its shape read it.

    Raises:
        SmaltiError: the file cannot be written.
    """
    fingerprint = None if base is None else base_fingerprint(base)
    write_small(path, light.state_dict(), {LIGHT: "1"} | ({_BASE: fingerprint} if fingerprint else {}))


def with_light(components: Components, path: str | Path | None) -> Components:
    """Give a model's denoiser the light layer of a file, if there is one. The denoiser is changed in place.

    Raises:
        SmaltiError: the file is missing, damaged or of another kind, or belongs to another model.
    """
    if path is None:
        return components
    if not isinstance(path, str | Path) or not os.path.isfile(path):
        raise SmaltiError(f"light must be a file that exists, not {quoted(str(path))}", argument="light")
    tensors, metadata = read_small(path)
    if LIGHT not in metadata:
        raise SmaltiError(f"light must be a file of smalti train-light, not {path}", argument="light")
    if components.folder:
        check_base({Path(path): metadata.get(_BASE)}, components.folder, "light", "light")
    denoiser = components.denoiser
    light = LightLayer(denoiser.config)
    needed = {name: tuple(tensor.shape) for name, tensor in light.state_dict().items()}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != needed:
        raise SmaltiError(f"light {path} is for a model of another shape", argument="light")
    light.load_state_dict(tensors)
    denoiser.light = light.requires_grad_(False).eval().to(denoiser.device, denoiser.norm.weight.dtype)
    return components
