"""`smalti tokenize`, `smalti pack`: images as token shards, or as tar shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.cli import options
from smalti.cli.output import to_path

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder of images or of tars, or the world scenes or objects.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings of the images, as in the section data of a training, such as size=512.",
        show_default=False,
    ),
]
Folder = Annotated[
    Path,
    typer.Option(
        "-o", "--output", metavar="FOLDER", help="Folder of the shards.", show_default=False, parser=to_path
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Number of images. By default each image of a folder.", show_default=False
    ),
]


def tokenize(
    source: Source,
    out: Folder,
    tokenizer: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Folder of an image tokenizer, or of a model that has one.",
            show_default=False,
        ),
    ],
    settings: Settings = None,
    samples: Samples = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="PyTorch device: cpu, cuda, …")] = "cpu",
    processes: Annotated[int, typer.Option(metavar="N", help="Processes; on GPUs, one each.")] = 1,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images that a process encodes at once.")] = 32,
    as_json: options.Json = False,
) -> None:
    """Turn images into token shards, which `smalti train` reads with data={kind: tokens, path: FOLDER}.

    Under torchrun each process runs this command and encodes its share. A second call continues an interrupted one.

    Example: smalti tokenize photos size=512 flips=true -o tokens --tokenizer runs/tokenizer/model
    """
    from smalti.training.distribution import rank
    from smalti.training.launching import rank_of_environment
    from smalti.training.tokenizing import describe_source, read_encoding
    from smalti.training.tokenizing import tokenize as run

    values = {
        "output": str(out),
        "tokenizer": tokenizer,
        "data": describe_source(source, settings or []),
        "samples": samples,
        "loop": {"device": device, "processes": processes, "batch_size": batch_size},
    }
    report = run(read_encoding(values))
    if rank() == rank_of_environment() == 0:
        grids = ", ".join(f"{count:,} of {grid}" for grid, count in report["grids"].items())
        _print(report, f"{out}: {report['images']:,} images ({grids} tokens)", as_json)


def pack(
    source: Source,
    out: Folder,
    settings: Settings = None,
    samples: Samples = None,
    per_tar: Annotated[int, typer.Option(metavar="N", min=1, help="Images of a tar.")] = 10_000,
    as_json: options.Json = False,
) -> None:
    """Write images as tar shards in WebDataset's layout, with indexes: one file for thousands of images.

    The files of a folder's images stay as they are. `smalti train` reads the shards with data={kind: shards, path:
    FOLDER}.

    Example: smalti pack photos -o shards
    """
    from smalti.training.tokenizing import describe_source
    from smalti.training.tokenizing import pack as run

    report = run(describe_source(source, settings or []), out, samples, per_tar)
    _print(report, f"{out}: {report['tars']:,} tars, {report['bytes']:,} bytes", as_json)


def _print(report: dict[str, Any], line: str, as_json: bool) -> None:
    print(json.dumps(report, ensure_ascii=False) if as_json else line)
