"""Layers that stay in the host's memory and are copied to the device one by one, each while the one before works."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

_SLOTS = 2


class StreamedLayers(nn.ModuleList):
    """A list of layers that are all alike, to be iterated over as a whole: each is on the device when its turn comes.

    There is room for two layers on the device. While the one computes, the next one's weights are copied into the
    other's place on a stream of their own; after the last layer the first two are fetched for the next pass. Names and
    values of parameters are those of the list that it was made from.
    """

    def __init__(self, layers: nn.ModuleList, device: torch.device | str) -> None:
        """Take over `layers`, whose weights are in the host's memory: pinned, if copies are to overlap with work."""
        super().__init__(layers)
        self._device = torch.device(device)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        # Not modules of this one: they must not be saved or moved along with it.
        self._slots = [_Slot(layers[0], self._device) for _ in range(min(_SLOTS, len(layers)))]
        self._turn = 0  # the slot that comes next
        if self._stream is not None:
            # The slots may lie where earlier work has not ended yet.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        for index in range(len(self._slots)):
            self._fetch(index, index)

    @property
    def on_device(self) -> list[nn.Module]:
        """The modules that the layers are copied into."""
        return [slot.layer for slot in self._slots]

    def __iter__(self) -> Iterator[nn.Module]:
        """The layers on the device. One may be used until the next one is asked for."""
        for index in range(len(self)):
            slot = self._slots[self._turn]
            if slot.holds != index:  # an earlier pass was broken off
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
        """Begin to copy layer `index` into a slot, when what was computed with the slot so far is done."""
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
        layer: the module; tensors: its parameters and buffers.
        holds: the index of the layer that is in it or on its way, or None.
        copied, used: events, on a GPU only: its weights are there; the last work with them is done.
    """

    def __init__(self, like: nn.Module, device: torch.device) -> None:
        # Copied without its numbers: every tensor is replaced in the copy by an empty one on the device.
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
    """`values` as a parameter if `tensor` is one."""
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    """Parameters and buffers, always in the same order."""
    return [*module.parameters(), *module.buffers()]
