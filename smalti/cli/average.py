"""`smalti average`: the average of two models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from smalti.cli import options
from smalti.cli.output import to_path
from smalti.common.checks import check_real

_FOLDER = "Folder of a model, or a name on the Hugging Face hub."


def average(
    first: Annotated[str, typer.Argument(metavar="FIRST", help=_FOLDER, show_default=False)],
    second: Annotated[
        str,
        typer.Argument(
            metavar="SECOND",
            help="A model fine-tuned from FIRST, or from the same third model.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Folder of the new model; not one of the two.",
            show_default=False,
            parser=to_path,
        ),
    ],
    share: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the second model, from 0 to 1.")
    ] = 0.5,
    as_json: options.Json = False,
) -> None:
    """Average the weights of two models, such as one before and after fine-tuning.

    The average often keeps what the first model knew and what the second learned. Settings and tokenizers are those of
    the first.

    Example: smalti average before/model after/model --share 0.7 -o runs/between
    """
    check_real("--share", share, 0, 1)
    from smalti.storage.averaging import average_models
    from smalti.storage.loading import find_model

    average_models(find_model(first), find_model(second), out, share=share)
    report = {"folder": str(out), "share": share}
    print(json.dumps(report) if as_json else out)
