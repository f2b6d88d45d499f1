"""A clean stop: Ctrl-C as a request that the trainer answers after the current step."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class Stop:
    """Whether someone asked the training to stop."""

    requested = False


@contextlib.contextmanager
def stop_on_interrupt(*, patient: bool = False) -> Iterator[Stop]:
    """Turn Ctrl-C or SIGTERM into a request, which the trainer answers after the current step.

    Args:
        patient: whether later signals are ignored. The processes of one training get the same signal from the
            terminal and from their launcher. Otherwise a second signal has its usual effect.
    """
    stop = Stop()

    def request(number: int, frame: object) -> None:
        stop.requested = True
        if not patient:
            for name in previous:
                signal.signal(name, previous[name])

    try:
        previous = {name: signal.signal(name, request) for name in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone gets signals
        yield stop
        return
    try:
        yield stop
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
