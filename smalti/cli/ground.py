"""`smalti ground`: where in an image the things are that phrases name."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import options, output
from smalti.cli.output import to_path
from smalti.cli.pictures import with_own_model
from smalti.common.checks import check_choice, check_real, check_seed, check_whole
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.editing.grounded import GroundResult

Prompt = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="What the whole image shows. The default is the prompt in the file.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT.png",
        help="The image with every region tinted and framed.",
        show_default=False,
        parser=to_path,
    ),
]


@options.with_loading_options
def ground(
    context: typer.Context,
    image: options.ImageFile,
    phrases: Annotated[
        list[str],
        typer.Argument(
            metavar="PHRASE", help="Part of the prompt, such as 'a red circle'.", show_default=False
        ),
    ],
    prompt: Prompt = None,
    out: Out = None,
    by: Annotated[
        str, typer.Option(metavar="NAME", help="likelihood, attention, or merged from both.")
    ] = "likelihood",
    threshold: Annotated[
        float,
        typer.Option(metavar="T", help="Part of the largest value of a map that belongs to the phrase."),
    ] = 0.5,
    masks: Annotated[int, typer.Option(metavar="N", help="Masks a prompt. More take longer.")] = 8,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Seed of the masks.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Find where in an image the things are that phrases of its prompt name.

    The likelihood of an object's tokens drops when its phrase is cut out of the prompt. It needs no training.

    Example: smalti ground scene.png "a green pear" --prompt "a green pear left of a blue car" -o where.png
    """
    from smalti.editing.picture import open_picture
    from smalti.reading.grounding import MAPS, check_phrases
    from smalti.reading.masks import MOST_MASKS

    started = time.perf_counter()
    check_choice("--by", by, MAPS)
    check_real("--threshold", threshold, 0, 1)
    check_whole("--masks", masks, 1, MOST_MASKS)
    check_seed(seed, "--seed")
    picture = open_picture(image)
    text = picture.prompt if prompt is None else prompt
    if text is None:
        raise SmaltiError(f"{image} does not say what it shows: name --prompt", argument="--prompt")
    check_phrases(text, phrases)
    if out:
        output.check_writable(out, (".png",), "-o")
        output.check_apart([("-o", out)], [("IMAGE", image)])
    pipe = options.load_pipeline(with_own_model(context.params, [picture]))
    output.warn_of_unknown_words(pipe.components, [text])
    show = output.shows_progress(as_json)
    with output.counted("reading", show=show) as report:
        found = pipe.ground(
            picture, phrases, prompt=text, by=by, threshold=threshold, masks=masks, seed=seed, report=report
        )
    if out:
        from smalti.common.images import save_image

        save_image(found.overlay(), out)
    seconds = time.perf_counter() - started
    if as_json:
        made = _report(found, by, pipe.components.name)
        output.print_json(
            {"image": str(image), "overlay": str(out) if out else None, **made, "seconds": round(seconds, 4)}
        )
        return
    for one in found.phrases:
        places = "; ".join(f"{box[0]},{box[1]} to {box[2]},{box[3]}" for box in one.boxes) or "nowhere"
        print(f"{one.phrase}: {places}")
    if show:
        print(f"{seconds:.1f} s", file=sys.stderr)


def _report(found: GroundResult, by: str, model: str) -> dict[str, Any]:
    """Return what was found, ready for JSON."""
    return {
        "prompt": found.prompt,
        "by": by,
        "size": [found.picture.shape[1], found.picture.shape[0]],
        "phrases": [one.to_dict() for one in found.phrases],
        "model": model,
    }
