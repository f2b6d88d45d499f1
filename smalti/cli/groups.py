"""`smalti groups`: groups of codes that look alike, for training with grouped cross-entropy."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.cli import options, output
from smalti.cli.output import to_path
from smalti.common.checks import check_seed, check_whole
from smalti.errors import SmaltiError

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Folder of a model or an image tokenizer; only the codebook is read. By default the model that "
        "comes with the package.",
        show_default=False,
    ),
]
Count = Annotated[
    int | None,
    typer.Option(
        "--groups", metavar="N", help="Cut the codebook into N groups by k-means.", show_default=False
    ),
]
Neighbours = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Instead of groups: the N nearest codes of each code, itself among them.",
        show_default=False,
    ),
]
Seed = Annotated[
    int, typer.Option(metavar="SEED", help="Seed of k-means, and of the pairs of codes that are measured.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT.safetensors",
        help="By default groups-N.safetensors, or neighbours-N.safetensors, in MODEL's folder.",
        show_default=False,
        parser=to_path,
    ),
]


def groups(
    model: Model = None,
    count: Count = None,
    neighbours: Neighbours = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Group codes that look alike, as grouped cross-entropy needs them, and measure the groups.

    The report has the sizes of the groups, and the mean distance of a code from the others of its group (within) and
    from codes outside it (between).

    Example: smalti groups runs/tokenizer/model --groups 1024
    """
    started = time.perf_counter()
    if (count is None) == (neighbours is None):
        raise SmaltiError("name either --groups or --neighbours")
    option, number = ("--groups", count or 0) if neighbours is None else ("--neighbours", neighbours)
    check_whole(option, number)
    check_seed(seed, "--seed")
    from smalti.storage.folder import load_codebook
    from smalti.storage.loading import find_model
    from smalti.vq.groups import CodeGroups, file_name

    folder = find_model(model, parts=("image_tokenizer",))
    if out is None and model is not None and not os.path.isdir(model):
        raise SmaltiError("-o must name the file to write for a model on the Hugging Face hub")
    codebook = load_codebook(folder)
    V, C = codebook.shape
    if number > V:
        raise SmaltiError(f"{option} must be from 1 to {V}, the number of codes, not {number}")
    path = out or folder / file_name(option.removeprefix("--"), number)
    output.check_writable(path, (".safetensors",), "-o")
    CodeGroups.check_target(path)
    if output.shows_progress(as_json):
        print(f"{V:,} codes of dimension {C} ...", file=sys.stderr)
    if neighbours is None:
        made = CodeGroups.from_kmeans(codebook, number, seed=seed)
    else:
        made = CodeGroups.from_neighbours(codebook, number)
    made.save(path)
    report = {
        "file": str(path),
        "kind": made.kind,
        "count": made.count,
        "codes": V,
        "dimension": C,
        "seed": seed,
        **asdict(made.report(codebook, seed=seed)),
        "seconds": round(time.perf_counter() - started, 3),
    }
    print(json.dumps(report) if as_json else _table(report))


def _table(report: dict[str, Any]) -> str:
    """Return a report as lines to read."""
    distances = ["-" if report[name] is None else f"{report[name]:.4f}" for name in ("within", "between")]
    sizes = f"{report['smallest']} to {report['largest']} codes, median {report['median']:g}"
    lines = {
        "file": report["file"],
        "codes": f"{report['codes']:,} of dimension {report['dimension']}",
        report["kind"]: f"{report['count']:,}",
        "sizes": sizes,
        "mean distance": f"{distances[0]} within, {distances[1]} between",
        "seconds": report["seconds"],
    }
    return "\n".join(f"{name:<16} {value}" for name, value in lines.items())
