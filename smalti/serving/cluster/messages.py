"""What a replica says of a batch to the server that asked for it: plain values."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

import torch

from smalti.errors import SmaltiError
from smalti.serving.steps import Seen
from smalti.serving.tasks import Drawn


@dataclass(frozen=True, eq=False)
class Finished:
    """An image that is done.

    Attributes:
        image: place of the image in its batch.
        drawn: the image, without its edit, which the server has.
    """

    image: int
    drawn: Drawn


@dataclass(frozen=True, eq=False)
class Failed:
    """The end of a batch that failed.

    Attributes:
        error: a SmaltiError, a MemoryError, or a `ReplicaError` with the text of any other.
    """

    error: Exception


class ReplicaError(Exception):
    """A fault in a replica; the message is its traceback there, for the log."""


Message = Seen | Finished | Failed


def failed(error: Exception) -> Failed:
    """Return the message of an error, in a form that every process can read.

    Example:
        >>> type(failed(KeyError("x")).error).__name__
        'ReplicaError'
    """
    if isinstance(error, SmaltiError):
        return Failed(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Failed(MemoryError())
    return Failed(ReplicaError("".join(traceback.format_exception(error))))
