"""`smalti quantize`: a model whose layers are stored in fewer bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from smalti.cli import options
from smalti.cli.output import to_path
from smalti.common.checks import check_choice


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Bundled model (objects or scenes), folder of a model, or a name on the Hugging Face hub.",
            show_default=False,
        ),
    ],
    kind: Annotated[str, typer.Argument(metavar="KIND", help="int8, int4 or fp8.", show_default=False)],
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
    group: Annotated[
        int,
        typer.Option(
            "--group",
            metavar="NUMBERS",
            help="Numbers that share a scale in int4: 16, 32, 64, 128 or 256. Fewer are more precise and take more "
            "bytes.",
        ),
    ] = 64,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Store both embeddings in int8, too.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Store the layers of a model in 8 or 4 bits, tensor by tensor, in a folder that needs no torchao.

    Everything that takes a model takes the folder. Norms, the head and the image tokenizer stay as they are.

    Example: smalti quantize nvidia/NL-Diffusion-Image int4 -o small
    """
    from smalti.runtime.quantization import QUANTIZATIONS, check_group
    from smalti.storage.loading import find_model
    from smalti.storage.quantizing import quantize_model

    check_choice("KIND", kind, QUANTIZATIONS)
    check_group(group, "--group")
    quantize_model(find_model(model), kind, out, group=group, embeddings=embeddings)
    size = sum(path.stat().st_size for path in out.glob("**/*.safetensors"))
    report = {"folder": str(out), "layers": kind, "bytes": size}
    print(json.dumps(report) if as_json else out)
