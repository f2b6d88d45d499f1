"""`smalti explain`: what each word of a prompt says about an image."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from smalti.cli import options, output
from smalti.cli.output import to_path
from smalti.cli.pictures import with_own_model
from smalti.common.checks import check_seed, check_whole
from smalti.errors import SmaltiError

Words = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Words or phrases of the prompt to explain, with commas between them. The default is every word.",
        show_default=False,
    ),
]
Pairs = Annotated[
    list[str] | None,
    typer.Option(
        "--pair",
        metavar="A,B",
        help="Two words whose information is split: redundant, unique to each, synergistic. Give it again for more.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT.png",
        help="Figure: the prompt with its words marked, and the image tinted where each word says most.",
        show_default=False,
        parser=to_path,
    ),
]


@options.with_loading_options
def explain(
    context: typer.Context,
    image: options.ImageFile,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]",
            help="What the image shows. The default is the prompt in the file.",
            show_default=False,
        ),
    ] = None,
    words: Words = None,
    pair: Pairs = None,
    out: Out = None,
    masks: Annotated[int, typer.Option(metavar="N", help="Masks for each text. More take longer.")] = 8,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Seed of the masks.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Tell what each word of a prompt says about an image, in nats, and where.

    A word says as much as the log-likelihood of the image's tokens falls without it. No training is needed.

    Example: smalti explain scene.png "a green pear left of a blue car" --pair green,pear -o words.png
    """
    from smalti.editing.picture import open_picture
    from smalti.reading.information import check_pairs, check_words
    from smalti.reading.masks import MOST_MASKS

    started = time.perf_counter()
    check_whole("--masks", masks, 1, MOST_MASKS)
    check_seed(seed, "--seed")
    names = None if words is None else [word.strip() for word in words.split(",")]
    pairs = [_pair(text) for text in pair or []]
    picture = open_picture(image)
    text = picture.prompt if prompt is None else prompt
    if text is None:
        raise SmaltiError(f"{image} does not say what it shows: name PROMPT", argument="PROMPT")
    check_words(text, names)
    check_pairs(text, pairs)
    if out:
        output.check_writable(out, (".png",), "-o")
        output.check_apart([("-o", out)], [("IMAGE", image)])
    pipe = options.load_pipeline(with_own_model(context.params, [picture]))
    output.warn_of_unknown_words(pipe.components, [text])
    show = output.shows_progress(as_json)
    with output.counted("reading", show=show) as report:
        found = pipe.explain(picture, text, words=names, pairs=pairs, masks=masks, seed=seed, report=report)
    if out:
        from smalti.common.images import save_image

        save_image(found.figure(), out)
    seconds = time.perf_counter() - started
    if as_json:
        output.print_json(
            {
                "image": str(image),
                "figure": str(out) if out else None,
                "prompt": text,
                "words": [one.to_dict() for one in found.words],
                "pairs": [one.to_dict() for one in found.pairs],
                "passes": found.passes,
                "seconds": round(seconds, 4),
                "model": pipe.components.name,
            }
        )
        return
    for one in found.words:
        print(f"{one.nats:8.1f} nats  {one.word}, most at x {one.peak[0]}, y {one.peak[1]}")
    for both in found.pairs:
        parts = ", ".join(f"{both.titles[name]} {nats:.1f}" for name, nats in both.nats.items())
        print(f"{both.words[0]} and {both.words[1]}: {parts} nats")
    if show:
        print(f"{seconds:.1f} s", file=sys.stderr)


def _pair(text: str) -> tuple[str, str]:
    """Return both words of `--pair`."""
    first, comma, second = (part.strip() for part in text.partition(","))
    if not first or not comma or not second or "," in second:
        raise SmaltiError(
            f"--pair must be two words with a comma between them, such as red,circle, not {text!r}"[:280],
            argument="--pair",
        )
    return first, second
