"""Print tables of bundled models over all suites from the measurements of experiments/report.sh.

python experiments/report.py [FOLDER]

FOLDER (default: runs/report) has a folder for each model, with a report in JSON for each suite. The output is Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from results import contrast, distance, edits, shown, table

from smalti.common.files import read_json
from smalti.worlds.tasks import TAGS

PAPER = "NL-Diffusion-Image, as its paper states (arXiv 2606.29814)"
PAPER_VALUES = {"geneval": 0.90, "dpg": 86.9, "hpsv3": 10.76}
"""Values that the paper states. Nobody has measured them here."""

SCORES = {
    "geneval": "mean",
    "dpg": "dpg",
    "hpsv3": "mean",
    "hpsv2": "mean",
    "pickscore": "mean",
    "imagereward": "mean",
    "clip-score": "mean",
    "fid": "fid",
}
"""Name of the score of each published benchmark."""

OWN = ("scenes", "objects")
"""Suites that follow GenEval's protocol in Smalti's own worlds."""

Found = Mapping[str, Mapping[str, dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("runs/report"), help="folder of the measurements"
    )
    folder = parser.parse_args().folder
    found = {
        place.name: {path.stem: read_json(path) for path in sorted(place.glob("*.json"))}
        for place in sorted(folder.iterdir())
        if place.is_dir()
    }
    for line in (*tags(found), *published(found)):
        print(line)
    for model in found:
        for part in (
            contrast(folder / model),
            distance(folder / model),
            edits(folder / model),
            tokenizer(found[model]),
        ):
            lines = list(part)
            if lines:
                print("\n".join([f"{model}:", "", *lines]))


def tags(found: Found) -> Iterator[str]:
    """Yield a row for each model and suite that follows GenEval's protocol, and the paper's mean."""
    rows: list[list[Any]] = []
    for model, suites in found.items():
        for suite in (*OWN, "geneval"):
            if suite in suites:
                one = suites[suite]
                detector = "HF detector" if suite == "geneval" else "own scorer"
                values = [None if one.get(tag) is None else 100 * one[tag] for tag in (*TAGS, "mean")]
                rows.append([model, suite, detector, str(one["images"]), *values, interval(one, "mean", 100)])
    if rows:
        blanks = [None] * len(TAGS)
        rows.append([PAPER, "geneval", None, None, *blanks, 100 * PAPER_VALUES["geneval"], None])
        head = ["model", "suite", "detector", "images", *TAGS, "mean", "95 % interval"]
        yield "GenEval's protocol, percent correct. Suites have other prompts each: compare within a suite."
        yield ""
        yield from table(head, rows)


def published(found: Found) -> Iterator[str]:
    """Yield a row for each published benchmark: the paper's value, and each model's."""
    head = ["benchmark", f"**paper**: {PAPER}"]
    for model in found:
        head += [model, "95 % interval", "images"]
    rows = []
    for suite, score in SCORES.items():
        measured = any(suite in suites for suites in found.values())
        if not measured and suite not in PAPER_VALUES:
            continue
        row: list[Any] = [suite, PAPER_VALUES.get(suite)]
        for suites in found.values():
            one = suites.get(suite)
            if one is None:
                row += ["not run", None, None]
            else:
                number = f"{one['images']}{' (subset)' if one.get('subset') else ''}"
                row += [one[score], interval(one, score, 1), number]
        rows.append(row)
    yield from table(head, rows)


def interval(one: Mapping[str, Any], name: str, factor: float) -> str | None:
    """Return an interval of a report, or None without one."""
    bounds = one.get("intervals", {}).get(name)
    return None if bounds is None else " to ".join(shown(factor * bound) for bound in bounds)


def tokenizer(suites: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the measures of the image tokenizer's round trip."""
    one = suites.get("tokenizer")
    if one is not None:
        numbers = {
            name: value
            for name, value in one.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("seed", "size")
        }
        yield from table(
            [name.replace("_", " ") for name in numbers], [[float(one) for one in numbers.values()]]
        )


if __name__ == "__main__":
    main()
