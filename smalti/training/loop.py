"""The trainer of both trainings: optimizer, schedule, average, log, checkpoints, a clean stop."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from smalti.common.devices import find_device
from smalti.errors import SmaltiError
from smalti.training.config import RunConfig
from smalti.training.distribution import first_alone, noticing_losses, rank, size, wait_for_all
from smalti.training.engine import Part, add_up_numbers, divide, make_engine, normalize_gradients
from smalti.training.optimizer import (
    MovingAverage,
    learning_rate,
    make_optimizer,
    set_rate,
    take_step,
    trainable,
)
from smalti.training.precision import make_autocast
from smalti.training.prefetching import prefetch
from smalti.training.reporting import Log
from smalti.training.restoring import load_checkpoint
from smalti.training.saving import Saver
from smalti.training.shards import whole
from smalti.training.speed import Speed
from smalti.training.state import TrainingState, latest_checkpoint
from smalti.training.stopping import stop_on_interrupt
from smalti.training.task import Task

# Threads that make batches. A GPU finishes a batch before a single thread has made the next one.
_MAKERS = {"cpu": 1, "cuda": 4}


class Trainer:
    """A training, from its start or its latest checkpoint to its last step.

    The folder `config.output` receives `log.jsonl`, `previews/`, `checkpoint-N/` (resumable, with a loadable `model/`
    inside) and at the end `model/`. With several processes (see `smalti.training.launching`) each has a trainer, and
    the first one writes.

    The loss of a step is the sum of weighted losses over all its images, divided by the sum of their weights. One batch
    of B, k batches of B/k and n processes therefore give the same gradient.

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
        self.first = rank() == 0
        self.engine = make_engine(task, config, self.device, make_autocast(self.loop, self.device))
        self.optimizer = make_optimizer(task.model, config.optimizer)
        self.average = MovingAverage(task.model, config.optimizer.ema_decay)
        self.state = TrainingState(task.model, self.average, self.optimizer)
        self.saver = Saver(
            self.folder,
            keep=config.loop.keep_checkpoints,
            asynchronous=config.loop.async_checkpoints,
            sharded=self.engine.sharded,
        )
        self.done = 0
        self.entry: dict[str, Any] = {}
        self._seconds_before, self._started = 0.0, time.monotonic()
        self._window: list[dict[str, float]] = []
        self._resume()
        self._make_previews()
        self._log = None
        if self.first:
            self._log = Log(self.folder, self.done, self.loop.log_to, config.model_dump(mode="json"))
        self.speed = Speed(task.products(), config.loop, self.device)

    def run(self) -> dict[str, Any]:
        """Train to the last step or until Ctrl-C, leave a checkpoint, and return the last log entry.

        The entry's "step" is the number of steps that are done. A run that is complete writes its model again.

        Raises:
            SmaltiError: the loss is not finite, or the disk is full.
        """
        loop, stopped, saved = self.loop, False, self.done
        complete = self.done >= loop.steps
        if not self.done and not complete:
            self.log()
        batches = self._batches()
        self.task.model.train()
        self._started = time.monotonic()
        self.speed.start()
        with stop_on_interrupt(patient=size() > 1) as stop, self._bar() as bar:
            while self.done < loop.steps and not stopped:
                stopped = self.step(batches, stop.requested)
                bar.update()
                last = self.done == loop.steps
                if self.done % loop.log_every == 0 or last:
                    self.log()
                    speed = f"{self.entry['images_per_second']:.0f}/s"
                    bar.set_postfix(loss=f"{self.entry['loss']:.4f}", images=speed)
                if self.done % loop.checkpoint_every == 0 or last:
                    self.save()
                    saved = self.done
        batches.close()
        if self.done != saved:
            self.save()
        with noticing_losses():
            self.saver.finish()
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
        if message and self.first:
            tqdm.write(message, file=sys.stderr)
        if self.done >= self.loop.steps:
            weights = self._exported()
            if self.first:
                self.task.export(weights, self.folder / "model")
        if self._log:
            self._log.close()
        wait_for_all()

    def step(self, batches: Iterator[tuple[Part, Any]], stop: bool = False) -> bool:
        """Take one optimizer step.

        Args:
            batches: this process's batches with the parts that they are.
            stop: whether this process was asked to stop.

        Returns:
            Whether any process was asked to stop.
        """
        set_rate(self.optimizer, learning_rate(self.config.optimizer, self.done, self.loop.steps))
        with noticing_losses():
            sums = self._add_gradients(batches)
            sums["stop"] = torch.tensor(float(stop))
            sums["written"] = torch.tensor(float(self.saver.written))
            sums = add_up_numbers(sums, self.device)
            normalize_gradients(self.task.model, sums["weight"])
            clip = self.config.optimizer.clip_norm
            norm = nn.utils.clip_grad_norm_(list(trainable(self.task.model).values()), clip)
        values = torch.stack([*sums.values(), whole(norm).to(self.device, sums["weight"].dtype)]).tolist()
        found = dict(zip([*sums, "gradient_norm"], values, strict=True))
        if not all(math.isfinite(found[name]) for name in ("loss", "gradient_norm")):
            raise SmaltiError(
                f"the loss is no longer finite at step {self.done}: lower optimizer.learning_rate"
            )
        take_step(self.optimizer, self.device)
        self.average.update(self.done)
        self.done += 1
        stopped, written = found.pop("stop") > 0, found.pop("written") == size()
        self._window.append(found)
        if written:
            with noticing_losses():
                self.saver.finish()
        return stopped

    def log(self) -> None:
        """Write the means since the last entry to the log, with a preview's measurements if there is one."""
        loop, path = self.loop, None
        self.entry = {"step": self.done}
        if self._window:
            self.entry |= self._means()
            self.entry |= self.speed.entry(len(self._window))
            self.entry["seconds"] = round(self._seconds(), 1)
        if self.done % loop.preview_every == 0 or self.done == loop.steps:
            path = self.folder / "previews" / f"step-{self.done:08d}.png"
            self.entry |= self.preview(path)
        self._window = []
        if self._log and len(self.entry) > 1:
            self._log.write(self.entry, path if path and os.path.exists(path) else None)
        self.speed.start()

    def _means(self) -> dict[str, float]:
        """Return the means since the last entry, the learning rate and the last gradient's norm."""

        def mean(name: str, count: str) -> float:
            total = sum(one[count] for one in self._window)
            return round(sum(one[name] for one in self._window) / total, 6) if total else 0.0

        names = [name for name in self._window[0] if f"weight {name}" in self._window[0]]
        loss = sum(one["loss"] / (one["weight"] or 1) for one in self._window) / len(self._window)
        return {
            "loss": round(loss, 6),
            **{name: mean(name, f"weight {name}") for name in names},
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "gradient_norm": round(self._window[-1]["gradient_norm"], 4),
        }

    def preview(self, path: Path) -> dict[str, float]:
        """Write a sample grid and return its measurements, with those on images that training does not show."""
        self.task.model.eval()
        with torch.no_grad(), noticing_losses(), self.average.applied():
            self.engine.refresh()
            measurements = self.task.validate()
            if self.first or self.engine.sharded:
                measurements |= self.task.preview(path if self.first else None)
            self.engine.refresh()
        self.engine.refresh()
        self.task.model.train()
        return measurements

    def save(self) -> None:
        """Write a checkpoint, or begin to; every process calls this."""
        metadata = {
            "entry": self.entry,
            "seconds": self._seconds(),
            "config": self.config.model_dump(mode="json"),
            "data": self.task.data,
        }
        with noticing_losses():
            weights = self._exported()
            self.saver.save(self.state, self.done, metadata, lambda folder: self.task.export(weights, folder))
        self.speed.start()

    def _exported(self) -> dict[str, torch.Tensor]:
        """Return copies on the CPU of the averaged weights that an export needs, in process 0."""
        parameters = dict(self.task.model.named_parameters())
        found = {}
        for name in self.task.exported():
            if self.first or self.engine.sharded:
                full = whole(self.average.values.get(name, parameters[name]))
                if self.first:
                    found[name] = full.clone()
        return found

    def _add_gradients(self, batches: Iterator[tuple[Part, Any]]) -> dict[str, torch.Tensor]:
        """Add the gradients of this process's share of a step, not normalised yet.

        Returns:
            This process's sums: "loss", "weight", and for each number of the log its total and its "weight NAME".
        """
        sums: dict[str, torch.Tensor] = {}
        last = False
        while not last:
            part, batch = next(batches)
            loss = self.engine.backward(batch, part, self.done)
            found = {"loss": loss.weighted_sum.detach(), "weight": loss.weight}
            for name, mean in loss.numbers.items():
                found |= {name: mean.total, f"weight {name}": mean.weight}
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value.detach().to(self.device).double() * part.counts
            last = part.last
        return sums

    def _resume(self) -> None:
        """Restore the latest checkpoint, if there is one."""
        checkpoint = latest_checkpoint(self.folder)
        if not checkpoint:
            return
        with noticing_losses():
            metadata = load_checkpoint(checkpoint, self.state)
        if metadata.get("data", self.task.data) != self.task.data:
            raise SmaltiError(f"{checkpoint} cannot be resumed: it was trained on other images or captions")
        self.done, self.entry = metadata["step"], metadata["entry"]
        self._seconds_before = metadata["seconds"]

    def _make_previews(self) -> None:
        with first_alone():
            try:
                (self.folder / "previews").mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SmaltiError(
                    f"output {self.folder} cannot be written: {error.strerror or error}"
                ) from error

    def _batches(self) -> Generator[tuple[Part, Any], None, None]:
        """Return this process's batches of the remaining steps."""
        parts = (part for step in range(self.done, self.loop.steps) for part in self._parts(step))
        return prefetch(lambda part: self.task.batch(part.images), parts, _MAKERS.get(self.device.type, 1))

    def _parts(self, step: int) -> Iterator[Part]:
        """Return this process's parts of a step."""
        count = self.loop.images
        shapes = self.task.shapes(range(step * count, (step + 1) * count))
        return divide(step, count, self.loop.batch_size, shapes)

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.loop.steps,
            initial=self.done,
            unit="step",
            desc=self.folder.name,
            dynamic_ncols=True,
            disable=None if self.first else True,
        )

    def _seconds(self) -> float:
        """Return the seconds that the run has taken, earlier parts of it included."""
        return self._seconds_before + time.monotonic() - self._started
