"""Docstrings and help texts: their examples run, their sentences are short and in the field's words."""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer.main
from prose import house_words, inverted_sentences, long_sentences

import smalti
from smalti.cli.app import app
from smalti.evaluation.suite import SUITES
from smalti.sampling.orders import ORDERS

PACKAGE = Path(smalti.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py")


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def module_of(path: Path) -> str:
    parts = ("smalti", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


def docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a file as prose: without examples, formulas, and the names in front of explanations."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node) or ""
            yield prose_of(text)
        elif (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield prose_of(node.value.value)


def prose_of(docstring: str) -> str:
    text = re.split(r"\n\s*Examples?:", docstring)[0]
    text = re.sub(r"^ *(Args|Returns|Raises|Yields|Attributes):\n", "\n", text, flags=re.MULTILINE)
    # Each entry is a paragraph of its own.
    return re.sub(r"^ +\*{0,2}[\w.]+\*?(?:, \*{0,2}[\w.]+\*?)*: ", r"\n\n", text, flags=re.MULTILINE)


def commands() -> Iterator[tuple[str, object]]:
    group = typer.main.get_command(app)
    yield "smalti", group
    for name, command in group.commands.items():
        yield name, command
        yield from getattr(command, "commands", {}).items()


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in FILES if ">>>" in path.read_text(encoding="utf-8")], ids=name_of
)
def test_examples_run(path: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(PACKAGE.parent / "configs")
    module = import_module(module_of(path))
    tables = (ORDERS, SUITES)
    before = [dict(table) for table in tables]
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for table, entries in zip(tables, before, strict=True):
        # An example may add to a table; other tests must not see it.
        table.clear()
        table.update(entries)
    assert not results.failed


@pytest.mark.parametrize("path", FILES, ids=name_of)
@pytest.mark.parametrize("fault", [long_sentences, house_words, inverted_sentences])
def test_docstrings(path: Path, fault) -> None:
    found = [line for text in docstrings(path) for line in fault(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("fault", [long_sentences, house_words, inverted_sentences])
def test_help_texts(name: str, command, fault) -> None:
    texts = [command.help or "", *(getattr(option, "help", None) or "" for option in command.params)]
    assert all(texts) or name == "smalti"
    found = [line for text in texts for line in fault(text)]
    assert not found, "\n".join(found)
