"""The command line: drawing, editing, training, measuring; each command is in `smalti/cli/`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from smalti.cli.commands import INTERRUPTED
from smalti.cli.help import print_help
from smalti.errors import SmaltiError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's own.

    Returns:
        The exit code: 0, 2 for wrong input (one line on stderr says what), 130 after Ctrl-C.
    """
    _open_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(given)
        sys.stdout.flush()
        return code
    except SmaltiError as error:
        return _complain(_told(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        _silence(sys.stdout)
        return 1
    except OSError as error:
        _silence(sys.stdout)
        return _complain(str(error))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        return _complain("out of memory: draw fewer images at a time, or smaller ones")


def _run(given: list[str]) -> int:
    """Run a command line; typer and the command are imported only where one is named."""
    if given in ([], ["--help"]):
        print_help()
        return 0
    from smalti.cli.app import run

    return run(given)


def _told(error: SmaltiError) -> str:
    """Return an error's message, with the option in place of the argument."""
    if not error.argument:
        return str(error)
    from smalti.cli.options import option_name

    return error.named(option_name(error.argument))


def _complain(message: str) -> int:
    """Print one line on stderr; return the exit code for wrong input."""
    from smalti.cli.output import note

    try:
        note(message)
    except OSError:
        _silence(sys.stderr)
    return 2


def _open_streams() -> None:
    """Make stdout and stderr such that printing never fails: open, and with escapes for what they cannot encode."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # A service may start without them. The next file that is opened would take the number and the output.
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the end
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _silence(stream: TextIO) -> None:
    """Send a stream that broke to nowhere, so that Python does not complain about it once more at exit."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
