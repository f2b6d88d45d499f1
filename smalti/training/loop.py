"""The loop that both trainings share: optimizer, schedule, average, log, checkpoints, a clean stop."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from tqdm import tqdm

from smalti.common.devices import find_device, has_bf16
from smalti.common.files import write_text_atomic
from smalti.errors import SmaltiError
from smalti.training.config import LoopConfig, RunConfig
from smalti.training.distribution import add_up, add_up_numbers, rank, size, take_from_first
from smalti.training.optimizer import learning_rate, make_optimizer
from smalti.training.state import latest_checkpoint, load_checkpoint, save_checkpoint

# Threads that make batches: a GPU is done with one before a single thread has the next.
_MAKERS = {"cpu": 1, "cuda": 4}


class Task(Protocol):
    """What a training has to say about itself; the loop does the rest.

    Everything random in a batch or a loss must follow from the seed and the number of the batch, so that a resumed
    run sees exactly what an uninterrupted one would.
    """

    model: nn.Module

    def batch(self, index: int) -> Any:
        """Batch number `index`, on the CPU; called from threads that work ahead, several at once on a GPU."""

    def loss(self, batch: Any, index: int, step: int) -> tuple[torch.Tensor, dict[str, float | torch.Tensor]]:
        """The loss of a batch and what the log should show of it."""

    def preview(self, average: dict[str, torch.Tensor], path: Path) -> dict[str, float]:
        """Write a sample grid made with the averaged weights to `path`; return measurements for the log."""

    def export(self, average: dict[str, torch.Tensor], folder: Path) -> None:
        """Write a loadable model folder with the averaged weights."""


def train(task: Task, config: RunConfig) -> dict[str, Any]:
    """Run or resume a training to its last step; returns the last log entry.

    The folder `config.output` receives `log.jsonl`, `previews/`, `checkpoint-N/` (resumable, with a loadable
    `model/` inside) and at the end `model/`. Ctrl-C writes a checkpoint and stops. Of several processes (see
    `smalti.training.distribution`) all call this and the first one writes.

    Raises:
        SmaltiError: the folder cannot be written or holds a run that does not fit, or the loss is not finite.
    """
    loop, run = config.loop, Path(config.output)
    device = find_device(loop.device)
    try:
        (run / "previews").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmaltiError(f"output {run} cannot be written: {error.strerror or error}") from error
    model = task.model.to(device)
    optimizer = make_optimizer(model, config.optimizer)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    first = rank() == 0
    step, entry, seconds_before = 0, {}, 0.0
    found = latest_checkpoint(run)
    if found:
        facts = load_checkpoint(found, model, average, optimizer)
        step, entry, seconds_before = facts["step"], facts.get("entry", {}), facts.get("seconds", 0.0)
        if first:
            _trim_log(run / "log.jsonl", step)
    take_from_first(list(model.parameters()))

    def save() -> None:
        if not first:
            return
        facts = {"entry": entry, "seconds": seconds_before + time.monotonic() - started}
        export = lambda folder: task.export(average, folder)  # noqa: E731
        save_checkpoint(run, step, model, average, optimizer, facts, export)

    autocast = _autocast(loop, device)
    started = time.monotonic()
    last_saved = step
    bar = tqdm(
        total=loop.steps,
        initial=step,
        unit="step",
        desc=run.name,
        dynamic_ncols=True,
        disable=None if first else True,
    )
    share = range(step * loop.accumulate + rank(), loop.steps * loop.accumulate, size())
    batches = _prefetch(task.batch, share, _MAKERS.get(device.type, 1))
    model.train()
    with _stop_on_interrupt() as stop, bar, (run / "log.jsonl").open("a", encoding="utf-8") as log:
        window, window_started, stopped = [], time.monotonic(), False
        while step < loop.steps and not stopped:
            rate = learning_rate(config.optimizer, step, loop.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            sums: dict[str, float | torch.Tensor] = {}
            for _ in range(loop.accumulate // size()):
                index, batch = next(batches)
                with autocast():
                    loss, numbers = task.loss(batch, index, step)
                (loss / loop.accumulate).backward()
                for name, value in {"loss": loss.detach(), **numbers}.items():
                    sums[name] = sums.get(name, 0.0) + value / loop.accumulate
            add_up([p.grad for p in model.parameters() if p.grad is not None])
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
            norm, *parts = _to_floats([norm, *sums.values()])
            parts = dict(zip(sums, parts, strict=True))
            parts = add_up_numbers({**parts, "stop": float(stop.requested)})
            stopped = parts.pop("stop") > 0
            if not math.isfinite(parts["loss"]) or not math.isfinite(norm):
                raise SmaltiError(
                    f"the loss is no longer finite at step {step}: lower optimizer.learning_rate"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            update_average(average, model, config.optimizer.ema_decay, step)
            step += 1
            window.append(parts)
            bar.update()
            if step % loop.log_every == 0 or step == loop.steps:
                images = len(window) * loop.accumulate * loop.batch_size
                entry = {
                    "step": step,
                    **{key: round(sum(p[key] for p in window) / len(window), 6) for key in window[0]},
                    "learning_rate": rate,
                    "gradient_norm": round(norm, 4),
                    "images_per_second": round(images / (time.monotonic() - window_started), 2),
                    "seconds": round(seconds_before + time.monotonic() - started, 1),
                }
                window = []
                if first and (step % loop.preview_every == 0 or step == loop.steps):
                    entry |= _preview(task, average, run / "previews" / f"step-{step:08d}.png")
                    model.train()
                if first:
                    log.write(json.dumps(entry) + "\n")
                    log.flush()
                bar.set_postfix(loss=f"{entry['loss']:.4f}", images=f"{entry['images_per_second']:.0f}/s")
                window_started = time.monotonic()
            if step % loop.checkpoint_every == 0 or step == loop.steps:
                save()
                last_saved = step
                window_started = time.monotonic()
    batches.close()
    if step != last_saved:
        save()
    if not first:
        return entry
    if step == loop.steps:
        task.export(average, run / "model")
    else:
        tqdm.write(
            f"stopped at step {step} of {loop.steps}; the same command goes on from there", file=sys.stderr
        )
    return entry


@torch.no_grad()
def update_average(average: dict[str, torch.Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights, shorter at the start so that it forgets the random ones."""
    decay = min(decay, (1 + step) / (10 + step))
    values = model.state_dict()
    floats = [name for name in average if average[name].is_floating_point()]
    torch._foreach_lerp_([average[name] for name in floats], [values[name] for name in floats], 1 - decay)


def _autocast(loop: LoopConfig, device: torch.device) -> Callable[[], contextlib.AbstractContextManager]:
    if loop.precision == "bf16" or (loop.precision == "auto" and has_bf16(device)):
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext


def _preview(task: Task, average: dict[str, torch.Tensor], path: Path) -> dict[str, float]:
    task.model.eval()
    with torch.no_grad():
        return task.preview(average, path)


def _to_floats(values: list[float | torch.Tensor]) -> list[float]:
    """Numbers from wherever they are, with one wait for the device."""
    return torch.stack(
        [torch.as_tensor(value, dtype=torch.float32).to(values[0]) for value in values]
    ).tolist()


def _prefetch(batch: Callable[[int], Any], numbers: range, makers: int) -> Iterator[tuple[int, Any]]:
    """Batches with their numbers, the next ones made in as many threads while one is in use."""
    with ThreadPoolExecutor(makers, "batches") as pool:
        left = iter(numbers)
        ahead = deque((index, pool.submit(batch, index)) for index in itertools.islice(left, makers))
        while ahead:
            index, made = ahead.popleft()
            current = made.result()
            ahead.extend((later, pool.submit(batch, later)) for later in itertools.islice(left, 1))
            yield index, current


def _trim_log(path: Path, step: int) -> None:
    """Drop log entries past `step`: the run that wrote them was killed before its next checkpoint."""
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        write_text_atomic(path, "".join(line + "\n" for line in kept))


class _Stop:
    requested = False


@contextlib.contextmanager
def _stop_on_interrupt() -> Iterator[_Stop]:
    """Turn the first Ctrl-C (or SIGTERM) into a request that the loop answers after the current step."""
    stop = _Stop()

    def request(number: int, frame: object) -> None:
        stop.requested = True
        for name in previous:
            signal.signal(name, previous[name])

    try:
        previous = {name: signal.signal(name, request) for name in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, so there is no Ctrl-C to catch
        yield stop
        return
    try:
        yield stop
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
