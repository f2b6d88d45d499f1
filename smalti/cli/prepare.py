"""`smalti prepare`: data that Smalti makes from what others published, for training and evaluation."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import options, output
from smalti.cli.output import to_path

if TYPE_CHECKING:
    from smalti.worlds.objects.archive import Sprite

app = typer.Typer(
    help="Prepare data for training and evaluation from packages that others published.", no_args_is_help=True
)

Folder = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="FOLDER",
        help="Folder for the archive, the packages and the parts that are ready.",
        show_default=False,
        parser=to_path,
    ),
]
Styles = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Prepare these styles only, separated by commas. By default all.",
        show_default=False,
    ),
]
Jobs = Annotated[int, typer.Option(metavar="N", help="Processes that render.")]


@app.callback()
def _prepare() -> None:
    """Prepare data for training and evaluation from packages that others published."""


@app.command()
def objects(folder: Folder, styles: Styles = None, jobs: Jobs = 2, as_json: options.Json = False) -> None:
    """Prepare images of real things for the world of objects: emoji, clip art and three-dimensional models.

    The command obtains packages with npm and apt-get, checks their sha256, renders them and writes FOLDER/sprites.zip
    and FOLDER/ATTRIBUTION.md. SVG drawings need resvg: pip install 'smalti[objects]'. A style whose package cannot be
    had is named, and the others go on. A second call makes only what is missing.

    Example: smalti prepare objects -o objects --styles noto,twemoji
    """
    from smalti.worlds.objects.preparing.prepare import prepare_objects

    started = time.perf_counter()
    chosen = None if styles is None else [style.strip() for style in styles.split(",")]
    made = prepare_objects(folder, chosen, jobs=jobs, show=output.shows_progress(as_json))
    for problem in made.problems:
        output.note(problem)
    report = {
        "archive": str(made.archive.path),
        **_contents(made.archive.sprites),
        "problems": list(made.problems),
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(report, ensure_ascii=False) if as_json else _table(report))


def _contents(sprites: Sequence[Sprite]) -> dict[str, Any]:
    """Return what an archive holds: in all, by style and by licence."""
    styles = dict.fromkeys(sprite.style for sprite in sprites)
    licences = Counter(sprite.licence for sprite in sprites)
    return {
        **_counts(sprites),
        "styles": {style: _counts([one for one in sprites if one.style == style]) for style in styles},
        "licences": dict(licences.most_common()),
    }


def _counts(sprites: Sequence[Sprite]) -> dict[str, int]:
    """Return how many images, things drawn or modelled, names, nouns, views and colours there are."""
    return {
        "images": len(sprites),
        "sprites": len({(one.style, one.entry) for one in sprites}),
        "names": len({one.name for one in sprites}),
        "nouns": len({one.noun for one in sprites if one.noun}),
        "views": sum(one.view is not None for one in sprites),
        "recolored": sum(one.recolored for one in sprites),
        "colored": sum(one.color is not None for one in sprites),
    }


def _table(report: dict[str, Any]) -> str:
    """Return a report as lines to read."""
    columns = ("images", "sprites", "names", "nouns", "views", "recolored", "colored")
    rows = [("style", *columns)]
    for style, counts in [*report["styles"].items(), ("all", report)]:
        rows.append((style, *(f"{counts[column]:,}" for column in columns)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    licences = ", ".join(f"{licence} ({count:,})" for licence, count in report["licences"].items())
    return "\n".join([*lines, f"licences: {licences}", f"archive: {report['archive']}"])
