"""The trainer of both trainings: optimizer, schedule, average, log, checkpoints, a clean stop."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import torch
from torch import nn
from tqdm import tqdm

from smalti.common.devices import find_device, has_bf16
from smalti.common.files import parse_json, write_text_atomic
from smalti.errors import SmaltiError
from smalti.training.config import LoopConfig, RunConfig
from smalti.training.distribution import add_up, add_up_numbers, rank, size, take_from_first
from smalti.training.optimizer import learning_rate, make_optimizer, update_average
from smalti.training.prefetching import prefetch
from smalti.training.state import latest_checkpoint, load_checkpoint, save_checkpoint
from smalti.training.stopping import stop_on_interrupt

# Threads that make batches. A GPU finishes a batch before a single thread has made the next one.
_MAKERS = {"cpu": 1, "cuda": 4}


class BatchLoss(NamedTuple):
    """The loss of a batch.

    Attributes:
        weighted_sum: scalar, sum of the batch's weighted losses.
        weight: scalar without a gradient, sum of the weights.
        numbers: values for the log by name; the log shows their means over batches.
    """

    weighted_sum: torch.Tensor
    weight: torch.Tensor
    numbers: Mapping[str, float | torch.Tensor]


class Task(Protocol):
    """What differs between trainings; the trainer does the rest.

    Everything random in a batch or a loss follows from the seed and the number of the batch. A resumed run therefore
    sees exactly what an uninterrupted one would.
    """

    @property
    def model(self) -> nn.Module:
        """Return the module that is trained."""

    @property
    def data(self) -> str:
        """Return a short hash of the images that are shown, which a resumed training must show again."""

    def batch(self, index: int) -> Any:
        """Return batch number `index`, on the CPU. Threads call this ahead of time, several at once on a GPU."""

    def loss(self, batch: Any, index: int, step: int) -> BatchLoss:
        """Return the loss of a batch at a step."""

    def preview(self, average: dict[str, torch.Tensor], path: Path) -> dict[str, float]:
        """Write a sample grid made with the averaged weights to `path`; return measurements for the log."""

    def export(self, average: dict[str, torch.Tensor], folder: Path) -> None:
        """Write a loadable model folder with the averaged weights."""


class Trainer:
    """A training, from its start or its latest checkpoint to its last step.

    The folder `config.output` receives `log.jsonl`, `previews/`, `checkpoint-N/` (resumable, with a loadable `model/`
    inside) and at the end `model/`. With several processes (see `smalti.training.distribution`) each has a trainer,
    and the first one writes.

    The loss of a step is the sum of weighted losses over all its batches and processes, divided by the sum of their
    weights. One batch of B, k batches of B/k and n processes therefore give the same gradient.

    Args:
        task: what is trained.
        config: how it is trained.

    Raises:
        SmaltiError: the folder cannot be written, or holds a run that does not fit.
    """

    def __init__(self, task: Task, config: RunConfig) -> None:
        self.task, self.config, self.loop = task, config, config.loop
        self.folder = Path(config.output)
        self.device = find_device(config.loop.device)
        try:
            (self.folder / "previews").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SmaltiError(f"output {self.folder} cannot be written: {error.strerror or error}") from error
        self.model = task.model.to(self.device)
        self.optimizer = make_optimizer(self.model, config.optimizer)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.first = rank() == 0
        self.done = 0
        self.entry: dict[str, Any] = {}
        self._seconds_before, self._started = 0.0, time.monotonic()
        self._window: list[dict[str, float]] = []
        self._window_started = self._started
        self._autocast = _autocast(self.loop, self.device)
        self._resume()

    def run(self) -> dict[str, Any]:
        """Train to the last step or until Ctrl-C, leave a checkpoint, and return the last log entry.

        The entry's "step" is the number of steps that are done. A run that is complete writes its model again.

        Raises:
            SmaltiError: the loss is not finite, or the disk is full.
        """
        batches, loop, stopped, saved = self._batches(), self.loop, False, self.done
        complete = self.done >= loop.steps
        self.model.train()
        self._started = self._window_started = time.monotonic()
        log_path = self.folder / "log.jsonl"
        with stop_on_interrupt() as stop, self._bar() as bar, log_path.open("a", encoding="utf-8") as log:
            while self.done < loop.steps and not stopped:
                stopped = self.step(batches, stop.requested)
                bar.update()
                last = self.done == loop.steps
                if self.done % loop.log_every == 0 or last:
                    self.log(log, preview=self.done % loop.preview_every == 0 or last)
                    speed = f"{self.entry['images_per_second']:.0f}/s"
                    bar.set_postfix(loss=f"{self.entry['loss']:.4f}", images=speed)
                if self.done % loop.checkpoint_every == 0 or last:
                    self.save()
                    saved = self.done
        batches.close()
        if self.done != saved:
            self.save()
        if self.first:
            self._finish(complete)
        return {**self.entry, "step": self.done}

    def _finish(self, complete: bool) -> None:
        """Write the model, or say how to go on; `complete` tells whether nothing was left to do."""
        message = None
        if self.done < self.loop.steps:
            message = (
                f"stopped at step {self.done} of {self.loop.steps}; the same command continues from there"
            )
        elif complete:
            message = (
                f"the training in {self.folder} is complete: {self.done} of {self.loop.steps} steps are done"
            )
        if message:
            tqdm.write(message, file=sys.stderr)
        if self.done >= self.loop.steps:
            self.task.export(self.average, self.folder / "model")

    def step(self, batches: Iterator[tuple[int, Any]], stop: bool = False) -> bool:
        """Take one optimizer step.

        Args:
            batches: this process's batches with their numbers.
            stop: whether this process was asked to stop.

        Returns:
            Whether any process was asked to stop.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        weight, sums = self._add_gradients(batches)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        add_up([weight, *gradients])
        torch._foreach_div_(gradients, weight)
        total_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm)
        norm, total, *values = _to_floats([total_norm, weight, *sums.values()], self.device)
        numbers = add_up_numbers({**dict(zip(sums, values, strict=True)), "stop": float(stop)})
        stopped = numbers.pop("stop") > 0
        numbers["loss"] /= total
        if not math.isfinite(numbers["loss"]) or not math.isfinite(norm):
            raise SmaltiError(
                f"the loss is no longer finite at step {self.done}: lower optimizer.learning_rate"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        update_average(self.average, self.model, self.config.optimizer.ema_decay, self.done)
        self.done += 1
        self._window.append({**numbers, "gradient_norm": norm})
        return stopped

    def log(self, file: TextIO, preview: bool) -> None:
        """Write the means since the last entry to the log, with a preview's measurements if there is one."""
        names = [name for name in self._window[0] if name != "gradient_norm"]
        images = len(self._window) * self.loop.accumulate * self.loop.batch_size
        now = time.monotonic()
        self.entry = {
            "step": self.done,
            **{name: round(sum(one[name] for one in self._window) / len(self._window), 6) for name in names},
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": round(self._window[-1]["gradient_norm"], 4),
            "images_per_second": round(images / (now - self._window_started), 2),
            "seconds": round(self._seconds(), 1),
        }
        self._window = []
        if self.first:
            if preview:
                self.entry |= self.preview()
            file.write(json.dumps(self.entry) + "\n")
            file.flush()
        self._window_started = time.monotonic()

    def preview(self) -> dict[str, float]:
        """Write a sample grid and return its measurements."""
        self.model.eval()
        path = self.folder / "previews" / f"step-{self.done:08d}.png"
        with torch.no_grad():
            measurements = self.task.preview(self.average, path)
        self.model.train()
        return measurements

    def save(self) -> None:
        """Write a checkpoint, in the first process."""
        if self.first:
            metadata = {
                "entry": self.entry,
                "seconds": self._seconds(),
                "config": self.config.model_dump(mode="json"),
                "data": self.task.data,
            }
            save_checkpoint(
                self.folder, self.done, self.model, self.average, self.optimizer, metadata, self._export
            )
        self._window_started = time.monotonic()

    def _export(self, folder: Path) -> None:
        self.task.export(self.average, folder)

    def _add_gradients(
        self, batches: Iterator[tuple[int, Any]]
    ) -> tuple[torch.Tensor, dict[str, float | torch.Tensor]]:
        """Add the gradients of this process's share of a step, not normalised yet.

        Returns:
            The sum of weights, and the log's numbers: "loss" as a weighted sum, the others as this process's part of
            their mean over all batches.
        """
        weight = torch.zeros((), device=self.device)
        sums: dict[str, float | torch.Tensor] = {"loss": 0.0}
        for _ in range(self.loop.accumulate // size()):
            index, batch = next(batches)
            with self._autocast():
                loss = self.task.loss(batch, index, self.done)
            loss.weighted_sum.backward()
            weight += loss.weight
            sums["loss"] += loss.weighted_sum.detach()
            for name, value in loss.numbers.items():
                sums[name] = sums.get(name, 0.0) + value / self.loop.accumulate
        return weight, sums

    def _resume(self) -> None:
        """Restore the latest checkpoint, if there is one, and give all processes the same weights."""
        checkpoint = latest_checkpoint(self.folder)
        if checkpoint:
            metadata = load_checkpoint(checkpoint, self.model, self.average, self.optimizer)
            if metadata.get("data", self.task.data) != self.task.data:
                raise SmaltiError(
                    f"{checkpoint} cannot be resumed: it was trained on other images or captions"
                )
            self.done, self.entry = metadata["step"], metadata["entry"]
            self._seconds_before = metadata["seconds"]
        if self.first:
            _trim_log(self.folder / "log.jsonl", self.done)
        take_from_first(list(self.model.parameters()))

    def _batches(self) -> Generator[tuple[int, Any], None, None]:
        """Return this process's batches of the remaining steps."""
        accumulate = self.loop.accumulate
        numbers = range(self.done * accumulate + rank(), self.loop.steps * accumulate, size())
        return prefetch(self.task.batch, numbers, _MAKERS.get(self.device.type, 1))

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.loop.steps,
            initial=self.done,
            unit="step",
            desc=self.folder.name,
            dynamic_ncols=True,
            disable=None if self.first else True,
        )

    def _rate(self) -> float:
        return learning_rate(self.config.optimizer, self.done, self.loop.steps)

    def _seconds(self) -> float:
        """Return the seconds that the run has taken, earlier parts of it included."""
        return self._seconds_before + time.monotonic() - self._started


def _autocast(loop: LoopConfig, device: torch.device) -> Callable[[], contextlib.AbstractContextManager]:
    """Return a function that makes the context in which losses are computed."""
    if loop.precision == "bf16" or (loop.precision == "auto" and has_bf16(device)):
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext


def _to_floats(values: Sequence[float | torch.Tensor], device: torch.device) -> list[float]:
    """Return numbers from any device as floats, with one wait for `device`."""
    return torch.stack([torch.as_tensor(value, dtype=torch.float32).to(device) for value in values]).tolist()


def _trim_log(path: Path, step: int) -> None:
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
