"""A child process that runs cases one after another, in process, and reports each on a line of JSON.

Input: lines of JSON, [family, number]. Output: lines of JSON, {"code", "stderr", "error", "seconds"}.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from fuzz_families import make_case

from smalti.cli.main import main


def run_case(arguments: list[str]) -> dict[str, object]:
    """Run a command line; return its exit code, what it wrote to stderr, and the exception that escaped, if any."""
    out, err = io.StringIO(), io.StringIO()
    started, error, code = time.perf_counter(), "", None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        error = traceback.format_exc()
    return {
        "code": code,
        "stderr": err.getvalue()[:9000],
        "error": error[-3000:],
        "seconds": round(time.perf_counter() - started, 3),
    }


def work(base: Path, seed: int) -> None:
    """Run every case that arrives on stdin."""
    results = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for entry in sys.stdin:
        family, number = json.loads(entry)
        folder = tempfile.mkdtemp(prefix="smalti-fuzz-")
        os.chdir(folder)
        try:
            arguments = make_case(family, number, seed, base)
            print(json.dumps({"arguments": arguments}), file=results, flush=True)
            print(json.dumps(run_case(arguments)), file=results, flush=True)
        finally:
            os.chdir("/")
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
