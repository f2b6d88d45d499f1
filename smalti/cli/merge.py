"""`smalti merge`: a model with adapters added to its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from smalti.cli import options
from smalti.cli.output import to_path


def merge(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Folder of a model, or a name on the Hugging Face hub.", show_default=False
        ),
    ],
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER", help="Adapter folder; the changes of several add up.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Folder of the new model.",
            show_default=False,
            parser=to_path,
        ),
    ],
    adapter_scale: options.AdapterScale = None,
    as_json: options.Json = False,
) -> None:
    """Add adapters to the weights of a model and write it in bf16.

    The new model needs no adapter. Quantize it when you load it: weights that are already quantized cannot take a sum.

    Example: smalti merge nvidia/NL-Diffusion-Image runs/cats/model -o merged
    """
    from smalti.storage.loading import find_model
    from smalti.storage.merging import merge_model

    merge_model(find_model(model), adapters, out, adapter_scale=options.scales(adapter_scale))
    report = {"folder": str(out), "adapters": adapters}
    print(json.dumps(report) if as_json else out)
