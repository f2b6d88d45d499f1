"""The command line: drawing, editing, training, measuring; each command is in `smalti/cli/`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, TextIO

import typer

from smalti.cli import edit, prepare
from smalti.cli.average import average
from smalti.cli.evaluate import evaluate
from smalti.cli.generate import generate
from smalti.cli.groups import groups
from smalti.cli.info import info
from smalti.cli.merge import merge
from smalti.cli.options import option_name
from smalti.cli.output import note, notes_of_the_package
from smalti.cli.quantize import quantize
from smalti.cli.serve import serve
from smalti.cli.tokenize import pack, tokenize
from smalti.cli.train import INTERRUPTED, train, train_tokenizer
from smalti.errors import SmaltiError

# What typer raises for a command line that it does not understand: click's class, or typer's own copy of it.
_UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
app.command()(generate)
app.command()(edit.edit)
app.command()(edit.inpaint)
app.command()(edit.outpaint)
app.command()(edit.vary)
app.command()(info)
app.command()(train)
app.command()(train_tokenizer)
app.command()(tokenize)
app.command()(pack)
app.command()(average)
app.command()(merge)
app.command()(quantize)
app.command()(groups)
app.command()(evaluate)
app.command()(serve)
app.add_typer(prepare.app, name="prepare")


@app.callback(invoke_without_command=True)
def _smalti(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Smalti: masked discrete diffusion of images, from text to images."""
    if version:
        import smalti

        print(f"smalti {smalti.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default the process's own.

    Returns:
        The exit code: 0, 2 for wrong input (one line on stderr says what), 130 after Ctrl-C.
    """
    _open_streams()
    given = None if arguments is None else list(arguments)
    try:
        with notes_of_the_package():
            code = app(args=given, prog_name="smalti", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except SmaltiError as error:
        return _complain(error.named(option_name(error.argument)) if error.argument else str(error))
    except _UsageError as error:
        return _complain(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
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


def _complain(message: str) -> int:
    """Print one line on stderr; return the exit code for wrong input."""
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
