"""`smalti train-word`: a new word for prompts, from a few images that show what it means."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from smalti.cli import options, output
from smalti.cli.output import to_path
from smalti.cli.pictures import with_own_model
from smalti.errors import SmaltiError

_TRAINING = "Training"

Captions = Annotated[
    list[str] | None,
    typer.Option(
        "--caption",
        metavar="TEXT",
        help="What an image shows, with {} in the word's place. Give it once for all images, or once for each.",
        show_default=False,
    ),
]
Name = Annotated[
    str, typer.Option("--name", metavar="<NAME>", help="How prompts write the word, in angle brackets.")
]
Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT.safetensors",
        help="File of the word, for --word.",
        show_default=False,
        parser=to_path,
    ),
]
Steps = Annotated[int, typer.Option(metavar="N", help="Number of steps.", rich_help_panel=_TRAINING)]
Batch = Annotated[
    int, typer.Option("--batch-size", metavar="N", help="Masked images in a step.", rich_help_panel=_TRAINING)
]
Rate = Annotated[
    float,
    typer.Option(
        "--learning-rate",
        metavar="R",
        help="Learning rate, as a fraction of the root mean square of the first vector.",
        rich_help_panel=_TRAINING,
    ),
]
Vectors = Annotated[
    int,
    typer.Option(metavar="N", help="Vectors of the word. More hold more detail.", rich_help_panel=_TRAINING),
]
Initial = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Known text to start from. The default is the known word under which the images are likeliest.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]


@options.with_loading_options
def train_word(
    context: typer.Context,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="3 to 5 images that show what the word means.",
            show_default=False,
            parser=to_path,
        ),
    ],
    out: Out,
    caption: Captions = None,
    name: Name = "<thing>",
    steps: Steps = 150,
    batch_size: Batch = 4,
    learning_rate: Rate = 0.2,
    vectors: Vectors = 1,
    initial: Initial = None,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Seed of the masks.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Learn a new word for prompts from a few images, with the model frozen.

    The word is a small file, which --word gives to smalti generate and other commands.

    Example: smalti train-word 1.png 2.png 3.png --caption "a red {}" -o thing.safetensors
    """
    from smalti.editing.picture import open_picture
    from smalti.model.learned import check_name
    from smalti.storage.small_files import check_replaceable
    from smalti.storage.words import WORD, save_word
    from smalti.training.words import WordTraining

    started = time.perf_counter()
    check_name(name)
    training = WordTraining(steps, batch_size, learning_rate, vectors, initial, seed)
    captions = _captions(caption or ["a {}"], len(images), name)
    output.check_writable(out, (".safetensors",), "-o")
    output.check_apart([("-o", out)], [("IMAGE", image) for image in images])
    check_replaceable(out, WORD, "smalti train-word")
    pictures = [open_picture(image) for image in images]
    pipe = options.load_pipeline(with_own_model(context.params, pictures))
    output.warn_of_unknown_words(pipe.components, [text.replace(name, " ") for text in captions])
    show, losses = output.shows_progress(as_json), [0.0]
    with output.counted("training", show=show) as report:

        def after(step: int, loss: float) -> None:
            losses.append(loss)
            report(step, steps)

        word = pipe.train_word(pictures, captions, name, training, report=after)
    save_word(word, out, base=pipe.components.folder)
    seconds = time.perf_counter() - started
    if as_json:
        output.print_json(
            {
                "word": name,
                "output": str(out),
                "captions": captions,
                "vectors": vectors,
                "steps": steps,
                "loss": round(losses[-1], 5),
                "seconds": round(seconds, 4),
                "model": pipe.components.name,
            }
        )
        return
    print(f"{out}: {name}, which prompts may hold beside --word {out}")
    if show:
        print(f"{seconds:.1f} s", file=sys.stderr)


def _captions(given: list[str], count: int, name: str) -> list[str]:
    """Return a caption an image, with the word in the place of {}."""
    for text in given:
        if text.count("{}") != 1:
            raise SmaltiError(
                f"--caption must hold {{}} once, in the word's place, not {text!r}"[:280],
                argument="--caption",
            )
    if len(given) not in (1, count):
        raise SmaltiError(
            f"--caption must be given once, or once for each of the {count} images, not {len(given)} times",
            argument="--caption",
        )
    texts = given * count if len(given) == 1 else given
    return [text.replace("{}", name) for text in texts]
