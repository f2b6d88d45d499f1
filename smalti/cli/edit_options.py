"""Arguments and options that all editing commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.cli import options
from smalti.cli.output import to_path

_IMAGE_HELP = (
    "The image: any size, any format. A PNG that Smalti made brings its tokens along. What an edit leaves alone then "
    "stays as it is, however many edits follow."
)

ImageFile = Annotated[
    Path, typer.Argument(metavar="IMAGE", help=_IMAGE_HELP, show_default=False, parser=to_path)
]
Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="The whole image as it should be.", show_default=False)
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="The result, as large as IMAGE, or as the grown canvas: a .png, .jpg or .webp file, or a folder. Several "
        "(-n) become OUT-0.png, OUT-1.png, ...",
        show_default=False,
        parser=to_path,
    ),
]
ShowMask = Annotated[
    Path | None,
    typer.Option(
        metavar="MAP.png",
        help="Draw over the image which tokens were selected.",
        show_default=False,
        parser=to_path,
    ),
]
Count = Annotated[
    int,
    typer.Option("-n", "--images-per-prompt", metavar="N", help="Number of results, each with another seed."),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="SEED",
        help="Result k (from 0) gets SEED + k. Random by default.",
        show_default=False,
    ),
]
KeepPixels = Annotated[
    bool,
    typer.Option(
        "--keep-pixels/--no-keep-pixels",
        help="Take pixels outside the selected tokens from IMAGE itself, or decode the whole image from tokens.",
    ),
]
Blend = Annotated[
    bool,
    typer.Option(
        "--blend/--no-blend",
        help="Change kept pixels within two tokens of the selected ones, so that no seam shows. Or keep every pixel "
        "outside the selected tokens bit for bit. A mask selects all tokens that it touches.",
    ),
]

RESULT: dict[str, tuple[Any, Any]] = {
    "out": (Out, None),
    "show_mask": (ShowMask, None),
    "keep_pixels": (KeepPixels, True),
    "blend": (Blend, True),
    "metadata": (options.Metadata, True),
    "negative_prompt": (options.NegativePrompt, None),
    "seed": (Seed, None),
    "images_per_prompt": (Count, 1),
    "as_json": (options.Json, False),
}
"""Annotation and default of each option of a result by the name of its parameter."""
