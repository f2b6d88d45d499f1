"""`smalti train-classifier`: a classifier over tokens from labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smalti.cli import options, output
from smalti.cli.output import to_path
from smalti.errors import SmaltiError, renamed


def train_classifier(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Folder with a subfolder of images for each label.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="File of the classifier, for --classifier; it ends in .safetensors.",
            show_default=False,
            parser=to_path,
        ),
    ],
    model: options.Model = None,
    height: Annotated[int | None, typer.Option(metavar="PIXELS", help="By default the model's own.")] = None,
    width: Annotated[int | None, typer.Option(metavar="PIXELS", help="By default the model's own.")] = None,
    steps: Annotated[int, typer.Option(metavar="N", help="Number of steps.")] = 400,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images in a step.")] = 32,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Seed of weights, batches and masks.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Train a classifier over tokens for --steer, from a folder with a subfolder of images for each label.

    It learns from masked grids, so it can judge an image that is being drawn. A tenth of the images is held out and
    measures it. Every alternative needs a label: the classifier knows only those of the folder.

    Example: smalti train-classifier backgrounds -o backgrounds.safetensors
    """
    from smalti.common.checks import check_seed, check_whole
    from smalti.storage.classifiers import LABELS, write_classifier
    from smalti.storage.folder import load_config, load_image_tokenizer
    from smalti.storage.loading import find_model
    from smalti.storage.small_files import check_replaceable
    from smalti.training.classifier import encode_labelled, find_labelled, train_classifier

    check_seed(seed, "--seed")
    output.check_writable(out, (".safetensors",), "-o")
    check_replaceable(out, LABELS, "smalti train-classifier")
    check_whole("--steps", steps)
    check_whole("--batch-size", batch_size)
    with renamed(folder="FOLDER"):
        found = find_labelled(folder)
    place = find_model(model)
    tokenizer, side = load_image_tokenizer(place), load_config(place).image_size
    size = (side if height is None else height, side if width is None else width)
    _check_size(size, tokenizer.config.downscale)
    show = output.shows_progress(as_json)
    with output.counted("encoding", show=show) as report:
        tokens, numbers = encode_labelled(tokenizer, found, size, report)
    with output.counted("training", show=show) as report:
        trained = train_classifier(
            tokenizer.quantize.embedding.weight.detach().float(),
            tokens,
            numbers,
            tuple(found),
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            report=report,
        )
    write_classifier(out, trained.network, trained.labels, tokenizer)
    if as_json:
        output.print_json(
            {
                "classifier": str(out),
                "images": dict(zip(trained.labels, trained.images, strict=True)),
                "accuracy": {f"{share:g}": round(value, 4) for share, value in trained.accuracy.items()},
            }
        )
        return
    print(f"{out}: {len(trained.labels)} labels, {sum(trained.images)} images")
    for share, value in trained.accuracy.items():
        masked = f"{100 * share:.0f} % of the tokens masked"
        print(f"{100 * value:5.1f} % of the held-out images are named correctly with {masked}")


def _check_size(size: tuple[int, int], unit: int) -> None:
    """Raise SmaltiError unless height and width in pixels are multiples of a token's side."""
    from smalti.data.fitting import LARGEST_SIDE

    for name, pixels in zip(("--height", "--width"), size, strict=True):
        if pixels % unit or not unit <= pixels <= LARGEST_SIDE:
            raise SmaltiError(
                f"{name} must be a multiple of {unit} pixels and at most {LARGEST_SIDE}, not {pixels}",
                argument=name,
            )
