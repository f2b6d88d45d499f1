"""Workers for replicas of Ray, whose processes import this module."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import smalti
from smalti.serving.worker import Worker

POISON, SLOW = "a blue square", "a slow circle"
"""Prompts at which a `MarkedWorker` fails, and at which each of its steps lasts a while."""


class MarkedWorker(Worker):
    """A worker that writes down the process that it draws in: a file of that name."""

    def __init__(self, model: str, folder: str) -> None:
        super().__init__({"tiny": smalti.load(model)})
        self.folder = Path(folder)

    def draw(self, pieces: Any, watch: Any) -> None:
        (self.folder / str(os.getpid())).touch()
        prompts = [piece.task.prompt for piece in pieces]
        if POISON in prompts:
            raise ValueError("poisoned /srv/secret/path")
        if SLOW in prompts:
            inner = watch.after

            def after(seen: Any) -> None:
                time.sleep(0.3)
                inner(seen)

            watch.after = after
        super().draw(pieces, watch)
