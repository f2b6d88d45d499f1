"""`smalti classify`: which of some labels describes an image."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import options, output
from smalti.cli.output import to_path
from smalti.cli.pictures import with_own_model
from smalti.common.checks import check_real, check_seed, check_whole
from smalti.common.files import read_lines
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.reading.classification import Classification

Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGE",
        help="The image: any size, any format. A PNG that Smalti made brings its tokens along.",
        show_default=False,
        parser=to_path,
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        metavar="A,B,...",
        help="Labels to choose from, with commas between them; or a .txt file with one a line. Give it again for more.",
        show_default=False,
    ),
]
Template = Annotated[
    str, typer.Option(metavar="TEXT", help="Text around each label, with {} in the label's place.")
]
Masks = Annotated[
    int,
    typer.Option(metavar="N", help="Masks a label. More take longer and tell closer labels apart."),
]
Temperature = Annotated[
    float, typer.Option(metavar="T", help="Divide the log-likelihoods by T: above 1 is less sure.")
]
Seed = Annotated[int, typer.Option(metavar="SEED", help="Seed of the masks.")]


@options.with_loading_options
def classify(
    context: typer.Context,
    images: Images,
    labels: Labels = None,
    template: Template = "{}",
    masks: Masks = 16,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Tell which of some labels describes an image.

    Each label's probability follows from the likelihood of the image's tokens under it. Word labels as the model's
    training captions are worded. It needs no training.

    Example: smalti classify scene.png --labels tiger,panda,fox --template "a photo of a {}"
    """
    from smalti.editing.picture import open_picture
    from smalti.reading.classification import check_labels
    from smalti.reading.masks import MOST_MASKS

    started = time.perf_counter()
    names = _labels(labels or [])
    texts = check_labels(names, template)
    check_whole("--masks", masks, 1, MOST_MASKS)
    check_real("--temperature", temperature, above=True)
    check_seed(seed, "--seed")
    # Before the model is loaded: an image that cannot be read is known at once.
    pictures = [open_picture(image) for image in images]
    pipe = options.load_pipeline(with_own_model(context.params, pictures))
    output.warn_of_unknown_words(pipe.components, texts)
    loaded = time.perf_counter() - started
    show = output.shows_progress(as_json)
    results = []
    for picture in pictures:
        with output.counted("reading", show=show) as report:
            result = pipe.classify(
                picture,
                names,
                template=template,
                masks=masks,
                temperature=temperature,
                seed=seed,
                report=report,
            )
        results.append(result)
    if as_json:
        seconds = {"load": round(loaded, 4), "total": round(time.perf_counter() - started, 4)}
        rows = [_row(image, result) for image, result in zip(images, results, strict=True)]
        output.print_json(
            {"images": rows, "template": template, "seconds": seconds, "model": pipe.components.name}
        )
        return
    for image, result in zip(images, results, strict=True):
        if len(images) > 1:
            print(image)
        for label, probability in result.ranked():
            print(f"{100 * probability:5.1f} %  {label}")
    if show:
        print(f"{time.perf_counter() - started:.1f} s", file=sys.stderr)


def _labels(given: list[str]) -> list[str]:
    """Return the labels of `--labels`: those of a .txt file, one a line, or those between commas."""
    labels: list[str] = []
    for text in given:
        if text.lower().endswith(".txt") and "," not in text:
            labels += read_lines(to_path(text))
        else:
            labels += [part.strip() for part in text.split(",")]
    if not labels:
        raise SmaltiError(
            "--labels must name at least two labels, such as circle,square", argument="--labels"
        )
    return labels


def _row(image: Path, result: Classification) -> dict[str, Any]:
    """Return an image's part of the report."""
    entries = zip(result.labels, result.probabilities, result.log_likelihoods, result.masks, strict=True)
    return {
        "image": str(image),
        "label": result.label,
        "labels": [
            {"label": label, "probability": round(p, 6), "log_likelihood": round(value, 4), "masks": masks}
            for label, p, value, masks in entries
        ],
        "passes": result.passes,
        "temperature": result.temperature,
    }
