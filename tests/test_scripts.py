"""Scripts outside the package: they answer --help, and every command that names one has options that it knows."""

from __future__ import annotations

import argparse
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import typer

from smalti.cli.app import app

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "experiments", "tools", "docs/make")
# Scripts import these; mkdocs, which the tests do not need, imports the hooks.
HELPERS = {
    "benchmarks/measure.py",
    "docs/make/hooks.py",
    "experiments/new_noun.py",
    "experiments/probe_scenes.py",
    "experiments/reading_scenes.py",
}
FILES = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in (ROOT / folder).glob("*.py"))
SCRIPTS = [file for file in FILES if file not in HELPERS]
SHELL = ("benchmarks/gpu.sh", "experiments/report.sh", "experiments/results.sh")
TEXTS = [str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]

_COMMAND = re.compile(rf'(?:\bpython|"\$PYTHON") ((?:{"|".join(FOLDERS)})/\w+\.py)([^`]*)')
_SMALTI = re.compile(r"\bsmalti ([a-z][a-z-]+) ([^`|]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@cache
def parser_of(script: str) -> argparse.ArgumentParser:
    """Run a script with --help, and return its parser."""
    modules, parsers = set(sys.modules), []
    with pytest.MonkeyPatch.context() as context:
        context.setattr(sys, "argv", [script, "--help"])
        context.syspath_prepend(str((ROOT / script).parent))
        context.setattr("argparse.ArgumentParser.print_help", lambda parser: parsers.append(parser))
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / script), run_name="__main__")
    # Scripts import each other by bare names, which would hide modules of the same names elsewhere.
    for name in set(sys.modules) - modules:
        if name in {Path(file).stem for file in FILES}:
            del sys.modules[name]
    assert stopped.value.code in (0, None)
    return parsers[0]


def commands(file: str) -> list[str]:
    """Return the shell commands of a file: lines of a shell script, code blocks and spans of a text."""
    text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
    if file in SHELL:
        return text.splitlines()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]
    return [line for block in blocks for line in block.splitlines()] + spans


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_answers_help(script):
    parser = parser_of(script)
    assert f"python {script}" in parser.format_help()
    assert [action.dest for action in parser._actions if not action.help] == []


@pytest.mark.parametrize("file", [*SHELL, *TEXTS])
def test_commands_use_options_that_exist(file):
    known = {
        name: {
            option
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts, "--help")
        }
        for name, command in typer.main.get_command(app).commands.items()
    }
    wrong = []
    for line in commands(file):
        for script, arguments in _COMMAND.findall(line):
            allowed = parser_of(script)._option_string_actions
            wrong += [(script, option) for option in _OPTION.findall(arguments) if option not in allowed]
        for name, arguments in _SMALTI.findall(line):
            wrong += [(name, option) for option in _OPTION.findall(arguments) if option not in known[name]]
    assert wrong == []


def test_every_text_with_commands_is_read():
    found = {
        script for file in (*SHELL, *TEXTS) for line in commands(file) for script, _ in _COMMAND.findall(line)
    }
    assert {"benchmarks/gce.py", "experiments/steps.py", "tools/check_golden.py"} <= found


@pytest.mark.parametrize("script", SHELL)
def test_a_shell_script_has_no_syntax_errors(script):
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


def test_results_lists_its_stages():
    listed = subprocess.run(
        ["bash", "experiments/results.sh", "--list"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "quality against steps" in listed.stdout
