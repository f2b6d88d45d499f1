"""Selections of tokens that can be tried out before anything is drawn: the losses are computed once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import torch

from smalti.editing.edit import PreparedEdit
from smalti.editing.regions import losing_tokens, most_losing
from smalti.editing.selection import Region
from smalti.serving.errors import invalid, not_found
from smalti.serving.records import describe_region

_MOST = 64


@dataclass(frozen=True)
class _Entry:
    owner: str
    prepared: PreparedEdit
    block: int


class Selections:
    """The newest selections by their identifier."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, name: str, owner: str, prepared: PreparedEdit, block: int) -> dict[str, Any]:
        """Keep a selection and return it; `block` is the side of the denoiser's cells in tokens."""
        with self._lock:
            self._entries[name] = _Entry(owner, prepared, block)
            while len(self._entries) > _MOST:
                self._entries.popitem(last=False)
        return _describe(name, prepared)

    def again(self, name: str, owner: str, *, threshold: float | None, share: float | None) -> dict[str, Any]:
        """Return a selection with another threshold or share; nothing is computed but which tokens exceed it.

        Raises:
            ApiError: there is no such selection, or it was not an automatic one.
            NothingChosen: no token loses anything.
        """
        with self._lock:
            entry = self._entries.get(name)
        if entry is None or entry.owner != owner:
            raise not_found("selection", name)
        prepared, block = entry.prepared, entry.block
        loss = prepared.region.loss
        if loss is None:
            raise invalid("threshold and share are for the automatic selection of tokens", "threshold")
        if threshold is not None and share is not None:
            raise invalid("share and threshold must not both be given", "share")
        if share is not None:
            tokens = most_losing(loss, share, block=block)
        elif threshold is not None:
            tokens = losing_tokens(loss, threshold=threshold, block=block)
        else:
            tokens = prepared.region.tokens
        return _describe(name, replace(prepared, region=Region(tokens, loss, prepared.region.passes)))


def _describe(name: str, prepared: PreparedEdit) -> dict[str, Any]:
    loss = prepared.region.loss
    values = None if loss is None else [[round(value, 4) for value in row] for row in _rows(loss)]
    return {
        "id": name,
        "object": "selection",
        "region": describe_region(prepared),
        "loss": values,
        "source_prompt": prepared.source_prompt,
    }


def _rows(loss: torch.Tensor) -> list[list[float]]:
    rows: list[list[float]] = loss.tolist()
    return rows
