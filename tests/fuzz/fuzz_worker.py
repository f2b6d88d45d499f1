"""A child process that runs cases one after another, in process, and reports each on a line of JSON.

Input: lines of JSON, [family, number]. Output: lines of JSON, {"code", "stderr", "error", "seconds"}.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import typer.main
from fuzz_calls import call
from fuzz_families import make_case
from fuzz_requests import request

import smalti.pipeline
import smalti.training.denoiser
import smalti.training.tokenizer  # noqa: F401 - imported here, and not at the first case's expense
from smalti.cli.main import main

_OTHERS = {"python": call, "http": request}
"""What runs cases that are no command lines, by the word that these begin with."""


def run_case(arguments: list[str]) -> dict[str, object]:
    """Run a command line; return its exit code, what it wrote to stderr, and the exception that escaped, if any."""
    out, err = io.StringIO(), io.StringIO()
    started, error, code = time.process_time(), "", None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command, *rest = arguments
            code = _OTHERS[command](*rest) if command in _OTHERS else main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        error = traceback.format_exc()
    return {
        "code": code,
        "stderr": err.getvalue()[:9000],
        "error": error[-3000:],
        "seconds": round(time.process_time() - started, 3),
    }


def work(base: Path, seed: int) -> None:
    """Run every case that arrives on stdin."""
    # The tree of commands is the same for all cases, and a third of their time.
    typer.main.get_command = functools.cache(typer.main.get_command)
    results = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for entry in sys.stdin:
        family, number = json.loads(entry)
        folder = tempfile.mkdtemp(prefix="smalti-fuzz-")
        os.chdir(folder)
        try:
            try:
                arguments = make_case(family, number, seed, base)
            except Exception:  # a fault of the harness, which counts as one, too
                broken = {"code": None, "stderr": "", "error": traceback.format_exc()[-3000:], "seconds": 0.0}
                print(json.dumps({"arguments": []}), json.dumps(broken), sep="\n", file=results, flush=True)
                continue
            print(json.dumps({"arguments": arguments}), file=results, flush=True)
            print(json.dumps(run_case(arguments)), file=results, flush=True)
        finally:
            os.chdir("/")
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
