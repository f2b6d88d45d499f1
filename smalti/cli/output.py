"""Where results go: names of files, checks before the work starts, progress, memory."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from smalti.common.checks import quoted
from smalti.errors import SmaltiError, one_line

if TYPE_CHECKING:
    from smalti.components import Components

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Suffixes of the image formats that are written."""

_LONGEST_NAME = 60
_MOST_WORDS = 8


def to_path(name: str) -> Path:
    """Return the path of an argument or option; a blank name would be the folder that the process works in.

    Raises:
        typer.BadParameter: it is blank.
    """
    if not name.strip():
        raise typer.BadParameter("the name must not be blank")
    return Path(name)


def check_writable(path: Path, suffixes: Sequence[str], option: str) -> None:
    """Raise SmaltiError unless a file with this name can be written, so that no work is done in vain."""
    if path.suffix.lower() not in suffixes:
        allowed = " or ".join(suffixes)
        raise SmaltiError(f"{option} must name a {allowed} file, not {quoted(str(path))}", argument=option)
    with _named(path, option):
        if path.is_dir():
            raise SmaltiError(f"{option} must name a file, but {path} is a folder", argument=option)
    check_folder(path.parent, path, option)


def check_apart(outputs: Sequence[tuple[str, Path]], inputs: Sequence[tuple[str, Path]] = ()) -> None:
    """Raise SmaltiError if two outputs of a command are one file, or an output is a file that the command reads.

    Links and other spellings of a name count as the file that they lead to.

    Args:
        outputs: option and path of each output.
        inputs: the same of each input that must stay.
    """
    taken = {_identity(path): option for option, path in inputs}
    for option, path in outputs:
        identity = _identity(path)
        if identity in taken:
            raise SmaltiError(
                f"{option} must name another file than {taken[identity]}, not {quoted(str(path))} as well",
                argument=option,
            )
        taken[identity] = option


def _identity(path: Path) -> object:
    """Return what two paths share if and only if they are one file."""
    try:
        found = path.stat()
        return found.st_dev, found.st_ino
    except (OSError, ValueError):
        return os.path.normcase(os.path.realpath(path))


@contextmanager
def _named(path: Path, option: str) -> Iterator[None]:
    """Name the option in errors of the operating system, such as a name that is too long."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, SmaltiError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise SmaltiError(f"{option} cannot be written: {_shown(path)}: {reason}", argument=option) from error


def _shown(path: Path) -> str:
    """Return a path as it stands in a message, cut where it is long."""
    return quoted(str(path))[1:-1] if len(str(path)) < 80 else quoted(str(path))[1:]


def check_folder(folder: Path, path: Path, option: str) -> None:
    """Raise SmaltiError unless files can be written into `folder`; the error names `path`."""
    with _named(path, option), tempfile.TemporaryFile(dir=folder):
        pass


def numbered(path: Path, count: int) -> list[Path]:
    """Return the path itself for one image; stem-0, stem-1, ... for more."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{index}{path.suffix}") for index in range(count)]


def is_folder(path: Path, option: str = "-o") -> bool:
    """Return whether an output names a folder: one that exists, or a name without a suffix."""
    if path.name.lower() in IMAGE_SUFFIXES:
        raise SmaltiError(
            f"{option} must have a name before its suffix, not {quoted(str(path))}", argument=option
        )
    with _named(path, option):
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
    with _named(out, "-o"):
        # It is created with the first image, so that a command that fails leaves nothing.
        existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    check_folder(existing, out, "-o")
    paths: dict[Path, None] = {}
    for prompt, seed in zip(prompts, seeds, strict=True):
        words = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:_LONGEST_NAME].strip("-") or "image"
        names = (f"{words}-{seed}{more}.png" for more in ("", *(f"-{number}" for number in range(2, 10_000))))
        free = next(out / name for name in names if out / name not in paths and not (out / name).exists())
        paths[free] = None
    return list(paths)


def note(message: str) -> None:
    """Print one line on stderr, of fewer than 300 characters, that starts with the program's name."""
    print(f"smalti: {one_line(message)}", file=sys.stderr, flush=True)


class Notes(logging.Handler):
    """Print the package's warnings, of a data folder for example, as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, on the stderr of this moment."""
        with suppress(OSError):
            note(record.getMessage())


@contextmanager
def notes_of_the_package() -> Iterator[None]:
    """Print what the package warns of inside the block as notes."""
    logger, handler = logging.getLogger("smalti"), Notes(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def warn_of_unknown_words(components: Components, texts: Sequence[str]) -> None:
    """Say on stderr which words of some texts the model has never seen in training."""
    words = components.unknown_words(texts)
    if words:
        names = ", ".join(quoted(word, 30)[1:-1] for word in words[:_MOST_WORDS])
        names += f" and {len(words) - _MOST_WORDS} more" if len(words) > _MOST_WORDS else ""
        note(f"the model {components.name} has never seen these words in training: {names}")


def print_json(report: Mapping[str, Any]) -> None:
    """Print a report as one JSON object: as it is, or with escapes where stdout's encoding lacks a character."""
    text = json.dumps(report, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(report)
    print(text)


def shows_progress(as_json: bool) -> bool:
    """Return whether to show progress: on a terminal and without JSON."""
    return sys.stderr.isatty() and not as_json


def progress(
    items: Iterator[Any], count: int, verb: str, *, show: bool, unit: str = "image"
) -> Iterator[Any]:
    """Return the same items, counted on the terminal."""
    from tqdm import tqdm

    return iter(tqdm(items, total=count, desc=verb, unit=unit, disable=not show, leave=False))


@contextmanager
def counted(verb: str, *, show: bool) -> Iterator[Callable[[int, int], None]]:
    """Give a function that shows on the terminal how much of a work is done: (done, all)."""
    from tqdm import tqdm

    with tqdm(desc=verb, unit="pass", disable=not show, leave=False) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


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
