"""`smalti info`: what a model holds and the memory that it needs."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer

from smalti.cli import options


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Bundled model (objects or scenes), folder of a model or an image tokenizer, or a name on the Hugging "
            "Face hub. By default objects.",
            show_default=False,
        ),
    ] = None,
    revision: options.HubRevision = None,
    as_json: options.Json = False,
) -> None:
    """Show what a model holds and the memory that it needs, without reading (or fetching) the weights."""
    from smalti.runtime.memory import ModelSize
    from smalti.runtime.modes import cards, table
    from smalti.storage.inspection import inspect
    from smalti.storage.loading import BUNDLED_MODELS, find_model

    folder = find_model(model, revision=revision, parts=())
    if model is None or model in BUNDLED_MODELS or os.path.isdir(model):
        report = inspect(folder)
    else:
        from smalti.storage.hub import remote_headers

        report = inspect(folder, remote_headers(model, folder))
    if report.get("image_tokenizer"):
        size = ModelSize.of(report)
        report |= {"memory": table(size), "cards": cards(size)}
    print(json.dumps({"folder": str(folder), **report}) if as_json else _table(str(folder), report))


def _table(folder: str, report: dict[str, Any]) -> str:
    """Return a report of `smalti.storage.inspection.inspect` as lines to read."""
    config, inner = report["config"], report.get("image_tokenizer")
    lines = [("folder", folder), ("model type", report["model_type"])]
    if "hidden_size" in config:
        heads = f"{config['num_attention_heads']}/{config['num_key_value_heads']} heads"
        lines += [
            ("denoiser", f"{config['num_hidden_layers']} layers, width {config['hidden_size']}, {heads}"),
            ("conditioning", f"{config['conditioning']}, {config['image_positions']} image positions"),
            ("images", f"{config['image_size']}×{config['image_size']} pixels by default"),
            ("prompts", f"up to {config['max_prompt_tokens']} text tokens of {config['vocab_size']}"),
        ]
    else:
        lines.append(("codes", f"{config['codebook_size']} of dimension {config['embed_dim']}"))
    lines += _weights(report)
    if inner:
        vq = inner["config"]
        side = vq["patch_size"] * 2 ** (len(vq["ch_mult"]) - 1)
        lines += [
            ("", ""),
            ("image tokenizer", f"{vq['codebook_size']} codes, {side}×{side} pixels per token"),
        ]
        lines += _weights(inner)
        lines += _memory(report["memory"], report["cards"], config["image_size"])
    if config.get("sampling"):
        settings = ", ".join(f"{name} {value}" for name, value in config["sampling"].items())
        lines += [("", ""), ("sampling", settings)]
    return "\n".join(f"{name:<17} {value}".rstrip() for name, value in lines)


def _weights(report: dict[str, Any]) -> list[tuple[str, str]]:
    parameters = report["parameters"]
    dtypes = ", ".join(report["dtypes"])
    unused = f" ({parameters['unused']:,} more are not used)" if parameters["unused"] else ""
    files = report["files"]
    names = files[0] if len(files) == 1 else f"{len(files)} files"
    parts = [
        (f"  {name}", f"{count:,}") for name, count in parameters.items() if name not in ("total", "unused")
    ]
    return [
        ("parameters", f"{parameters['total']:,} in {dtypes}{unused}"),
        *parts,
        ("weights", f"{report['bytes'] / 1e6:.1f} MB in {names}"),
    ]


def _memory(rows: list[dict[str, Any]], cards: list[dict[str, Any]], side: int) -> list[tuple[str, str]]:
    """Return what each precision needs, and what would be chosen for smaller GPUs, one line each."""
    from smalti.runtime.memory import gigabytes

    lines = [("", ""), ("memory", f"computed, on a device, for one {side}×{side} image with guidance:")]
    for row in rows:
        weights = sum(row["weights"].values())
        lines.append(
            (
                f"  {row['precision']}",
                f"{gigabytes(row['total'])}: {gigabytes(weights)} of weights, {gigabytes(row['working'])} to work in",
            )
        )
    for row in cards:
        host = f" and {gigabytes(row['host'])} of the host's" if row["host"] else ""
        lines.append((f"  --memory {row['memory']}", f"{gigabytes(row['total'])}{host}: {row['mode']}"))
    return lines
