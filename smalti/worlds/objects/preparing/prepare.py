"""Preparing an archive of sprites: packages, then parts, then one file. Each step continues where it was stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from tqdm import tqdm

from smalti.common.checks import check_choice, check_whole
from smalti.common.files import make_folder
from smalti.errors import SmaltiError
from smalti.worlds.objects.archive import ARCHIVE_NAME, SpriteArchive
from smalti.worlds.objects.preparing.assembling import assemble
from smalti.worlds.objects.preparing.packages import PackageError, obtain, packages
from smalti.worlds.objects.preparing.parts import Part, plan

PACKAGES, PARTS = "packages", "parts"


@dataclass(frozen=True)
class Prepared:
    """What `prepare_objects` made.

    Attributes:
        archive: the archive.
        problems: what could not be had or read, one line each.
    """

    archive: SpriteArchive
    problems: tuple[str, ...]


def prepare_objects(
    folder: str | Path, styles: Sequence[str] | None = None, *, jobs: int = 2, show: bool = False
) -> Prepared:
    """Prepare an archive of sprites of real things from packages that others published.

    The folder keeps the packages and the parts of the archive, so that a second call makes only what is missing. The
    archive holds all parts of the folder, also those of styles that an earlier call chose.

    Args:
        folder: folder to write into, created if need be.
        styles: styles to prepare, all by default; `packages` lists them.
        jobs: processes that render.
        show: whether to show progress on the terminal.

    Raises:
        SmaltiError: a style is unknown, nothing can be obtained, or the folder cannot be written.

    Example:
        >>> prepare_objects("objects", ["photos"])
        Traceback (most recent call last):
        smalti.errors.SmaltiError: styles must be 'fluent-3d' or ...
    """
    chosen = list(dict.fromkeys(packages() if styles is None else styles))
    for style in chosen:
        check_choice("styles", style, packages())
    if not chosen:
        raise SmaltiError("styles must name at least one style", argument="styles")
    check_whole("jobs", jobs)
    folder = Path(folder)
    make_folder(folder / PARTS)
    problems: list[str] = []
    files = _obtained(chosen, folder, problems, show)
    missing = [
        (part, files[style])
        for style in chosen
        if style in files
        for part in plan(style)
        if not os.path.exists(folder / PARTS / part.file_name)
    ]
    _make(missing, folder / PARTS, jobs, problems, show)
    if not assemble(folder / PARTS, folder, show=show):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SmaltiError(f"nothing could be prepared: {problems[0]}{more}")
    return Prepared(SpriteArchive(folder / ARCHIVE_NAME), tuple(dict.fromkeys(problems)))


def _obtained(styles: Sequence[str], folder: Path, problems: list[str], show: bool) -> dict[str, Path]:
    """Return the package of each style that is or can be had; add a line to the problems for each other one."""
    found = {}
    for style in tqdm(styles, desc="packages", unit="package", disable=not show, leave=False):
        try:
            found[style] = obtain(packages()[style], folder / PACKAGES)
        except PackageError as error:
            problems.append(str(error))
    return found


def _make(
    parts: Sequence[tuple[Part, Path]], folder: Path, jobs: int, problems: list[str], show: bool
) -> None:
    """Write parts, several at a time. A broken package is one line of the problems; a full disk ends it all."""
    total = sum(len(part.entries) for part, _ in parts)
    with tqdm(total=total, desc="sprites", unit="thing", disable=not show, leave=False) as bar:
        for part, error in _results(parts, folder, min(jobs, len(parts))):
            bar.update(len(part.entries))
            if error is not None:
                problems.append(str(error))


def _results(
    parts: Sequence[tuple[Part, Path]], folder: Path, jobs: int
) -> Iterator[tuple[Part, PackageError | None]]:
    """Write parts; yield each with what is wrong with its package."""
    if jobs <= 1:
        yield from ((part, _write(part, folder, package)) for part, package in parts)
        return
    with _workers(jobs) as workers:
        tasks = {workers.submit(_write, part, folder, package): part for part, package in parts}
        try:
            for task in as_completed(tasks):
                yield tasks[task], task.result()
        except BrokenProcessPool as error:
            raise SmaltiError("a process that renders was killed; `jobs` 1 needs less memory") from error


@contextmanager
def _workers(jobs: int) -> Iterator[Executor]:
    """Yield an executor of processes that end with this one."""
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    workers = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start)
    try:
        yield workers
    except BaseException:
        # What they have begun would take minutes.
        workers.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
            process.join()
        raise
    finally:
        workers.shutdown()


def _start() -> None:
    """Make a worker quiet on Ctrl-C, and let it end when its parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write(part: Part, folder: Path, package: Path) -> PackageError | None:
    """Write a part; return what is wrong with its package, or None."""
    try:
        part.write(folder, package)
    except PackageError as error:
        return error
    return None
