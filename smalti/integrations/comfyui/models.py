"""Models in ComfyUI's hands: read when they are first needed, moved and freed as ComfyUI decides."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from smalti.common.devices import find_device
from smalti.common.host import return_memory
from smalti.components import Components
from smalti.runtime.memory import parse_memory
from smalti.storage.loading import find_model, load_components
from smalti.storage.precision import default_dtype

_WEIGHTS = (".safetensors", ".gguf")
_ALL = 1e32  # bytes, as ComfyUI writes "no limit"


@dataclass(frozen=True)
class Source:
    """What a loader node asks for; the arguments are those of `smalti.load`.

    Attributes:
        adapters: folder and scale of each adapter.
    """

    model: str | Path
    revision: str | None = None
    local_files_only: bool = False
    dtype: str | None = None
    quantize: str | None = None
    offload: str | None = None
    memory: str | None = None
    adapters: tuple[tuple[Path, float], ...] = ()
    verifier: str | Path | None = None

    def folder(self) -> Path:
        """Return the model's folder; one on the hub is fetched."""
        return find_model(self.model, revision=self.revision, local_files_only=self.local_files_only)

    def read(self, device: torch.device, target: torch.device) -> Components:
        """Read the weights onto `device`, in the dtype of a model that computes on `target`."""
        # ComfyUI runs nodes in inference mode, whose tensors could not be used outside of it.
        with torch.inference_mode(False):
            return load_components(
                self.model,
                device=device,
                dtype=default_dtype(target, False) if self.dtype is None and not self.memory else self.dtype,
                quantize=self.quantize,
                offload=self.offload,
                memory=self.memory,
                revision=self.revision,
                local_files_only=self.local_files_only,
                adapter=[folder for folder, _ in self.adapters] or None,
                adapter_scale=[scale for _, scale in self.adapters] or None,
                verifier=self.verifier,
            )


class Weights(nn.Module):
    """A model's weights as ComfyUI sees them.

    Attributes:
        movable: whether ComfyUI may move them between devices. Otherwise Smalti places them, and they are dropped when
            ComfyUI wants their memory back.
        parts: the model; None until it is needed, and after it was dropped.
    """

    def __init__(self, movable: bool) -> None:
        super().__init__()
        self.movable = movable
        self.parts: Components | None = None
        # ComfyUI writes this attribute when it moves the weights. A denoiser's own cannot be written.
        self.device: torch.device | None = None

    def put(self, parts: Components) -> None:
        """Take a model that was read."""
        self.parts = parts
        if self.movable:
            self.denoiser, self.image_tokenizer = parts.denoiser, parts.image_tokenizer
            if parts.verifier is not None:
                self.verifier = parts.verifier.denoiser

    def drop(self) -> None:
        """Forget the model; the next use reads it again."""
        self.parts = None
        self._modules.clear()
        return_memory()


class SmaltiPatcher(ModelPatcher):
    """What ComfyUI loads and frees: a whole model, never a part of it."""

    def partially_load(
        self, device_to: Any, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> Any:
        """Load all weights: Smalti's layers cannot compute with weights on another device."""
        return super().partially_load(device_to, _ALL, force_patch_weights)

    def partially_unload(
        self, device_to: Any, memory_to_free: float = 0, force_patch_weights: bool = False
    ) -> int:
        """Free nothing, whereupon ComfyUI unloads the whole model."""
        return 0

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        """Move the weights to `device_to`, or drop them where moving would free nothing."""
        if unpatch_weights and device_to is not None and not self.model.movable:
            self.model.drop()
        super().unpatch_model(device_to, unpatch_weights)


class SmaltiModel:
    """A model that is read when it is first needed: what travels along a SMALTI_MODEL link.

    Args:
        size: bytes that ComfyUI makes room for.

    Attributes:
        source: what to read.
        patcher: ComfyUI's handle of the weights.
    """

    def __init__(self, source: Source, size: int) -> None:
        self.source = source
        load, offload = management.get_torch_device(), management.unet_offload_device()
        movable = not (source.quantize or source.offload or source.memory) and load != offload
        self.patcher = SmaltiPatcher(Weights(movable), load, offload, size=size)

    def __del__(self) -> None:
        # No link holds the model any more, and ComfyUI's handle must not keep its memory.
        if "patcher" in vars(self) and not sys.is_finalizing():
            self.patcher.model.drop()

    def ready(self) -> Components:
        """Return the model on the device that it computes on; ComfyUI frees what else needs to go.

        Raises:
            SmaltiError: the model is broken, or does not fit.
        """
        weights, patcher = self.patcher.model, self.patcher
        place = find_device(patcher.load_device)
        fresh = weights.parts is None
        if weights.movable and fresh:
            weights.put(self.source.read(find_device(patcher.offload_device), place))
        management.load_models_gpu([patcher], force_full_load=True)
        if weights.parts is None:
            weights.put(self.source.read(place, place))
        elif weights.movable:
            weights.to(place)
            if fresh:
                return_memory()  # of the weights as they were read
        parts: Components = weights.parts
        return parts


_MODELS: WeakValueDictionary[tuple[Any, ...], SmaltiModel] = WeakValueDictionary()


def open_model(source: Source) -> SmaltiModel:
    """Return the model of a source, the same one as long as somebody holds it and its files do not change."""
    files = stamp(source)
    key = (source, management.get_torch_device(), files)
    model = _MODELS.get(key)
    if model is None:
        stored = sum(size for name, size, _ in files if name.endswith(_WEIGHTS))
        size = parse_memory(source.memory) if source.memory else stored
        model = _MODELS[key] = SmaltiModel(source, size)
    return model


def stamp(source: Source) -> tuple[tuple[str, int, int], ...]:
    """Return name, bytes and time of every file that a model is read from."""
    folders = [source.folder(), *(folder for folder, _ in source.adapters)]
    if source.verifier is not None:
        folders.append(find_model(source.verifier))
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".json", *_WEIGHTS) and path.is_file():
                state = os.stat(path)
                found.append((path.name, state.st_size, state.st_mtime_ns))
    return tuple(found)
