"""Layers that stay in the host's memory and are copied to the device one by one, each while the one before works."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from smalti.errors import SmaltiError

_SLOTS = 2


class StreamedLayers(nn.ModuleList):
    """A list of equal layers that is iterated over as a whole: each layer is on the device when its turn comes.

    Two layers fit on the device. While one computes, the next one's weights are copied into the other place on a
    separate stream. After the last layer the first two are fetched for the next pass. Parameters keep the names and
    values of the original list.
    """

    def __init__(self, layers: nn.ModuleList, device: torch.device | str) -> None:
        """Take over `layers`, whose weights are in the host's memory; pinned weights are copied during work.

        Raises:
            SmaltiError: the layers are not alike, because an adapter changes some of them.
        """
        shapes = [[tensor.shape for tensor in _tensors(layer)] for layer in layers]
        if any(other != shapes[0] for other in shapes):
            raise SmaltiError("offload='layers' needs adapters that are of one shape in every layer")
        super().__init__(layers)
        self._device = torch.device(device)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        # In a plain list, so that they are not saved or moved with this module.
        self._slots = [_Slot(layers[0], self._device) for _ in range(min(_SLOTS, len(layers)))]
        self._turn = 0  # the slot that comes next
        if self._stream is not None:
            # The slots' memory may still be in use by earlier work.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        for index in range(len(self._slots)):
            self._fetch(index, index)

    @property
    def on_device(self) -> list[nn.Module]:
        """Modules that the layers are copied into."""
        return [slot.layer for slot in self._slots]

    def __iter__(self) -> Iterator[nn.Module]:
        """Yield the layers on the device. Each may be used until the next one is requested."""
        for index in range(len(self)):
            slot = self._slots[self._turn]
            if slot.holds != index:  # an earlier pass was aborted
                self._fetch(self._turn, index)
            if self._stream is not None:
                torch.cuda.current_stream(self._device).wait_event(slot.copied)
            yield slot.layer
            if self._stream is not None:
                slot.used.record(torch.cuda.current_stream(self._device))
            following = (index + len(self._slots)) % len(self)
            if following != index:
                self._fetch(self._turn, following)
            self._turn = (self._turn + 1) % len(self._slots)

    @torch.no_grad()
    def _fetch(self, turn: int, index: int) -> None:
        """Begin to copy layer `index` into a slot, after the work that uses the slot."""
        slot = self._slots[turn]
        slot.holds = None
        source = _tensors(self[index])
        if self._stream is None:
            for target, tensor in zip(slot.tensors, source, strict=True):
                target.copy_(tensor)
        else:
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(slot.used)
                for target, tensor in zip(slot.tensors, source, strict=True):
                    target.copy_(tensor, non_blocking=True)
                slot.copied.record(self._stream)
        slot.holds = index


class _Slot:
    """Room for one layer on the device.

    Attributes:
        layer: the module.
        tensors: its parameters and buffers.
        holds: index of the layer in the slot, or on its way there, or None.
        copied: event, on a GPU only: the weights are there.
        used: event, on a GPU only: the last work with the weights is done.
    """

    def __init__(self, like: nn.Module, device: torch.device) -> None:
        # The copy has an empty tensor on the device in place of every tensor.
        empty = {
            id(tensor): _like(tensor, torch.empty_like(tensor, device=device, pin_memory=False))
            for tensor in _tensors(like)
        }
        self.layer = copy.deepcopy(like, empty)
        self.tensors = _tensors(self.layer)
        self.holds: int | None = None
        if device.type == "cuda":
            self.copied, self.used = torch.cuda.Event(), torch.cuda.Event()


def _like(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return `values` as a parameter if `tensor` is one."""
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    """Return parameters and buffers, always in the same order."""
    return [*module.parameters(), *module.buffers()]
