"""Print the tables of docs/results.md from the measurements of experiments/results.sh.

python experiments/results.py [FOLDER]

The output is Markdown: one table for every file that FOLDER (default: runs/results) contains.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from smalti.common.files import read_json
from smalti.evaluation.suites.scenes.edit_pairs import KINDS
from smalti.worlds.tasks import TAGS

PRESETS = ("quality", "balanced", "fast")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs/results"), help="folder of the measurements"
    )
    folder = parser.parse_args().folder
    for part in (
        scores(folder),
        contrast(folder),
        distance(folder),
        edits(folder),
        measured_elsewhere(folder),
    ):
        for line in part:
            print(line)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; numbers have two places, and None is a dash."""
    yield f"| {' | '.join(head)} |"
    yield "| --- |" + " --- |" * (len(head) - 1)
    for row in rows:
        yield f"| {' | '.join(map(shown, row))} |"
    yield ""


def shown(cell: str | float | None) -> str:
    """Return a cell of a table."""
    if cell is None:
        return "–"
    return cell if isinstance(cell, str) else f"{cell:.2f}"


def scores(folder: Path) -> Iterator[str]:
    """Yield a row for each preset: the six tags, their mean, and held-out pairs."""
    found = {name: folder / f"score-{name}.json" for name in PRESETS}
    rows = []
    for name, path in found.items():
        if path.exists():
            one = read_json(path)
            rows.append(
                (name, f"{one['passes']:g}", *(one[tag] for tag in (*TAGS, "mean", "held_out", "seen")))
            )
    if rows:
        yield from table(["preset", "passes", *TAGS, "mean", "held-out pairs", "other pairs"], rows)


def contrast(folder: Path) -> Iterator[str]:
    """Yield a row for each kind: nats at each mask ratio."""
    path = folder / "contrast.json"
    if path.exists():
        kinds = read_json(path)["kinds"]
        ratios = list(next(iter(kinds.values())))
        rows = (
            (
                kind.replace("_", " "),
                *(f"{one[ratio]['nats']:.1f} ({one[ratio]['right']:.2f})" for ratio in ratios),
            )
            for kind, one in kinds.items()
        )
        yield from table(["what is changed", *(f"{float(ratio):.0%} masked" for ratio in ratios)], rows)


def distance(folder: Path) -> Iterator[str]:
    """Yield the Fréchet distances."""
    path = folder / "distance.json"
    if path.exists():
        one = read_json(path)
        names = ("distance", "floor", "tokenizer")
        yield from table(names, [[one[name] for name in names]])


def edits(folder: Path) -> Iterator[str]:
    """Yield a row for each selection of tokens, then the automatic one by kind."""
    path = folder / "edits.json"
    if path.exists():
        found = read_json(path)
        selections = [name for name, one in found.items() if isinstance(one, dict) and "by_kind" in one]
        numbers = [name for name in found[selections[0]] if name != "by_kind"]
        rows = [(one, *(found[one][name] for name in numbers)) for one in selections]
        by_kind = found["automatic"]["by_kind"]
        rows += [(f"automatic, {kind}", *(by_kind[kind][name] for name in numbers)) for kind in KINDS]
        yield from table(["selection", *(name.replace("_", " ") for name in numbers)], rows)


def measured_elsewhere(folder: Path) -> Iterator[str]:
    """Yield the tables that other experiments have written."""
    for path in sorted(folder.glob("*/results.md")):
        yield f"{path.parent.name}:"
        yield ""
        yield path.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
