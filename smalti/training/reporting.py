"""The log of a training: JSON lines, and TensorBoard or Weights & Biases beside them if wanted."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from smalti.common.files import check_regular, parse_json, read_json, write_text_atomic
from smalti.errors import SmaltiError


class Writer(Protocol):
    """A further place for log entries."""

    def write(self, entry: dict[str, Any]) -> None:
        """Add an entry."""

    def image(self, step: int, path: Path) -> None:
        """Add a sample grid."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Event files for TensorBoard, in the folder `tensorboard` of the run."""

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        with _needed("tensorboard", "tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(str(run / "tensorboard"))

    def write(self, entry: dict[str, Any]) -> None:
        for name, value in _numbers(entry):
            self._writer.add_scalar(name, value, entry["step"])
        self._writer.flush()

    def image(self, step: int, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image("preview", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases, which a resumed training continues. WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, run: Path, config: dict[str, Any]) -> None:
        with _needed("wandb", "wandb"):
            import wandb
        self._wandb = wandb
        kept = run / "wandb.json"
        before = read_json(kept) if os.path.exists(kept) else {}
        self._run = wandb.init(
            project="smalti", name=run.name, dir=str(run), config=config, id=before.get("id"), resume="allow"
        )
        write_text_atomic(kept, json.dumps({"id": self._run.id}) + "\n")

    def write(self, entry: dict[str, Any]) -> None:
        self._run.log(dict(_numbers(entry)), step=entry["step"])

    def image(self, step: int, path: Path) -> None:
        self._run.log({"preview": self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


WRITERS: dict[str, type[TensorBoard] | type[Wandb]] = {"tensorboard": TensorBoard, "wandb": Wandb}
"""Every further place for log entries, by the name that `loop.log_to` uses."""


def check_places(names: Sequence[str]) -> None:
    """Raise SmaltiError if a further place for log entries needs a package that is not installed."""
    for name in names:
        with _needed(name, name):
            importlib.import_module(name)


class Log:
    """The log of a run in `log.jsonl`, one entry a line, and in the places that `loop.log_to` names.

    Args:
        run: folder of the run.
        step: number of steps done; later entries, which a killed process may have left, are dropped.
        places: names of further places.
        config: the configuration, for the places that keep it.

    Raises:
        SmaltiError: a place needs a package that is not installed.
    """

    def __init__(self, run: Path, step: int, places: Sequence[str], config: dict[str, Any]) -> None:
        self._path = run / "log.jsonl"
        check_regular(self._path)
        trim_log(self._path, step)
        self._writers: list[Writer] = [WRITERS[name](run, config) for name in places]

    def write(self, entry: dict[str, Any], image: Path | None = None) -> None:
        """Add an entry, and a sample grid if there is one."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        for writer in self._writers:
            writer.write(entry)
            if image is not None:
                writer.image(entry["step"], image)

    def close(self) -> None:
        """Write what is left."""
        for writer in self._writers:
            writer.close()


def trim_log(path: Path, step: int) -> None:
    """Keep the log entries up to `step`. A run that was killed may have written later ones, and half of one."""
    if not os.path.exists(path):
        return
    kept = []
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(SmaltiError, UnicodeDecodeError):
            entry = parse_json(line.decode(), "a line")
            if isinstance(entry, dict) and type(entry.get("step")) is int and entry["step"] <= step:
                kept.append(line.decode() + "\n")
    write_text_atomic(path, "".join(kept))


def _numbers(entry: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of an entry by name, without its step."""
    for name, value in entry.items():
        if name != "step" and isinstance(value, int | float):
            yield name, value


@contextlib.contextmanager
def _needed(name: str, package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise SmaltiError(f"loop.log_to: {name} is not installed: pip install {package} ({error})") from error
