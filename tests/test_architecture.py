"""The house: rooms on floors, small files and functions, no cycles. docs/architecture.md explains the table."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "smalti"

# A file imports from its own room and from rooms on lower floors.
FLOORS = {
    "errors": 0,
    "common": 1,
    "ops": 2,
    "vq": 2,
    "model": 2,
    "worlds": 2,
    "sampling": 3,
    "objective": 3,
    "data": 3,
    "runtime": 3,
    "components": 4,
    "storage": 5,
    "reading": 5,
    "generation": 6,
    "editing": 7,
    "training": 7,
    "pipeline": 8,
    "evaluation": 9,
    "serving": 9,
    "integrations": 9,
    "cli": 10,
    "__init__": 9,  # `import smalti`: the command line may, the rooms below name the module that they need
    "__main__": 11,
}
ROOT = {"__init__", "__main__", "errors", "components"}  # every other module has a room
FILE_LINES = 350
FUNCTION_LINES = 80


@cache
def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name without "smalti.": "vq.banded", "pipeline", "__init__"."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def file_name(module: str) -> str:
    return str(modules()[module].relative_to(PACKAGE))


def room(module: str) -> str:
    return module.partition(".")[0]


def imports(module: str) -> Iterator[str]:
    """Yield the modules of the package that a module imports: anywhere in the file, `TYPE_CHECKING` included."""
    path = modules()[module]
    package = ["smalti", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            target = resolve(name)
            if target not in (None, module):
                yield target


def resolve(name: str) -> str | None:
    """Return the module of the package that has a dotted name or holds it; None for other packages."""
    if name != "smalti" and not name.startswith("smalti."):
        return None
    inside = name.removeprefix("smalti").removeprefix(".")
    while inside and inside not in modules():
        inside = inside.rpartition(".")[0]
    return inside or "__init__"


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name of every function of a file and its number of lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def upward() -> Iterator[str]:
    for module in modules():
        for target in sorted({room(name) for name in imports(module)} - {room(module)}):
            here, there = FLOORS.get(room(module)), FLOORS.get(target)
            if here is not None and there is not None and there >= here:
                yield f"{file_name(module)} imports {target} ({here} -> {there})"


def unplaced() -> Iterator[str]:
    for name in sorted({room(module) for module in modules()} - set(FLOORS)):
        yield f"{name} has no floor"


def at_root() -> Iterator[str]:
    for path in sorted(PACKAGE.glob("*.py")):
        if path.stem not in ROOT:
            yield f"{path.name} is at the root"


def long_files() -> Iterator[str]:
    for module, path in modules().items():
        if (lines := len(path.read_text().splitlines())) > FILE_LINES:
            yield f"{file_name(module)} is longer than {FILE_LINES} lines: {lines}"


def long_functions() -> Iterator[str]:
    for module, path in modules().items():
        if room(module) == "ops" and "triton" in path.name:  # kernels are one function
            continue
        for name, lines in functions(path):
            if lines > FUNCTION_LINES:
                yield f"{file_name(module)}: {name} is longer than {FUNCTION_LINES} lines: {lines}"


def cycles() -> Iterator[str]:
    """Yield each group of files that import each other, by Tarjan's algorithm."""
    edges = {module: sorted(set(imports(module))) for module in modules()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> Iterator[list[str]]:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in edges[module]:
            if target not in index:
                yield from visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            members = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            yield members

    for module in edges:
        if module not in index:
            for members in visit(module):
                if len(members) > 1:
                    yield "files import each other: " + ", ".join(sorted(map(file_name, members)))


RULES = {
    "floors": upward,
    "places": unplaced,
    "root": at_root,
    "files": long_files,
    "functions": long_functions,
    "cycles": cycles,
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_of_the_house(rule: str) -> None:
    broken = list(RULES[rule]())
    assert not broken, "\n" + "\n".join(broken)


def test_the_rules_see_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "__init__.py": "",
        "components.py": "from smalti.vq.coder import code\n",
        "loose.py": "",
        "common/__init__.py": "",
        "common/checks.py": "if TYPE_CHECKING:\n    from smalti.vq import coder\n",
        "vq/__init__.py": "",
        "vq/coder.py": "def code() -> None:\n    import smalti.model.layer\n" + "    code()\n" * 80,
        "model/__init__.py": "",
        "model/layer.py": "from ..vq import coder\n" + "\n" * 400,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    modules.cache_clear()
    try:
        assert [list(rule()) for rule in RULES.values()] == [
            [
                "common/checks.py imports vq (1 -> 2)",
                "model/layer.py imports vq (2 -> 2)",
                "vq/coder.py imports model (2 -> 2)",
            ],
            ["loose has no floor"],
            ["loose.py is at the root"],
            ["model/layer.py is longer than 350 lines: 401"],
            ["vq/coder.py: code is longer than 80 lines: 82"],
            ["files import each other: model/layer.py, vq/coder.py"],
        ]
    finally:
        modules.cache_clear()


def test_the_document_has_the_same_floors() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)(?:\.py|/)` \|", text, re.MULTILINE)
    written = {room: int(floor) for floor, room in rows}
    rooms = {module.partition(".")[0] for module in modules()} - {"__init__", "__main__"}
    assert written == {room: FLOORS[room] for room in rooms}
