"""Where results go: names of files, checks before the work starts, progress, memory."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.common.checks import quoted
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.components import Components

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Suffixes of the image formats that are written."""

_LONGEST_NAME = 60


def check_writable(path: Path, suffixes: Sequence[str], option: str) -> None:
    """Raise SmaltiError unless a file with this name can be written, so that no work is done in vain."""
    if path.suffix.lower() not in suffixes:
        allowed = " or ".join(suffixes)
        raise SmaltiError(f"{option} must name a {allowed} file, not {quoted(str(path))}", argument=option)
    if path.is_dir():
        raise SmaltiError(f"{option} must name a file, but {path} is a folder", argument=option)
    check_folder(path.parent, path, option)


def check_folder(folder: Path, path: Path, option: str) -> None:
    """Raise SmaltiError unless files can be written into `folder`; the error names `path`."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SmaltiError(
            f"{option} cannot be written: {path}: {error.strerror or error}", argument=option
        ) from error


def numbered(path: Path, count: int) -> list[Path]:
    """Return the path itself for one image; stem-0, stem-1, ... for more."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{index}{path.suffix}") for index in range(count)]


def is_folder(path: Path) -> bool:
    """Return whether an output names a folder: one that exists, or a name without a suffix."""
    return path.is_dir() or not path.suffix


def image_paths(out: Path, prompts: Sequence[str], seeds: Sequence[int]) -> list[Path]:
    """Return where images go: `out` itself, numbered if there are several, or files in the folder `out`.

    In a folder an image is named by its prompt and its seed; a name that is taken gets a number.

    Args:
        prompts, seeds: one an image.

    Raises:
        SmaltiError: they cannot be written.
    """
    if not is_folder(out):
        files = numbered(out, len(prompts))
        for path in files:
            check_writable(path, IMAGE_SUFFIXES, "-o")
        return files
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmaltiError(f"-o cannot be written: {out}: {error.strerror or error}", argument="-o") from error
    check_folder(out, out, "-o")
    paths: dict[Path, None] = {}
    for prompt, seed in zip(prompts, seeds, strict=True):
        words = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:_LONGEST_NAME].strip("-") or "image"
        names = (f"{words}-{seed}{more}.png" for more in ("", *(f"-{number}" for number in range(2, 10_000))))
        free = next(out / name for name in names if out / name not in paths and not (out / name).exists())
        paths[free] = None
    return list(paths)


def warn_of_unknown_words(components: Components, texts: Sequence[str]) -> None:
    """Say on stderr which words of some texts the model has never seen in training."""
    words = components.unknown_words(texts)
    if words:
        names = ", ".join(words)
        print(
            f"smalti: the model {components.name} has never seen these words in training: {names}",
            file=sys.stderr,
        )


def shows_progress(json: bool) -> bool:
    """Return whether somebody is looking: progress goes to a terminal, never to a file or beside JSON."""
    return sys.stderr.isatty() and not json


def progress(
    items: Iterator[Any], count: int, verb: str, *, show: bool, unit: str = "image"
) -> Iterator[Any]:
    """Return the same items, counted on the terminal."""
    from tqdm import tqdm

    return iter(tqdm(items, total=count, desc=verb, unit=unit, disable=not show, leave=False))


def peak_memory_mb(device: str) -> float:
    """Return the most memory that this process has held so far, in MB (10⁶ bytes): on the GPU if one is in use."""
    if device.startswith("cuda"):
        import torch

        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    try:
        # Unlike ru_maxrss this does not start from what the parent process held.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    except OSError:
        pass
    if os.name == "nt":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)
