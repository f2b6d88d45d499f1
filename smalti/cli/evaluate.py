"""`smalti evaluate scenes`: GenEval's protocol over scenes, for a model or for pictures in a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import drawing, options, output
from smalti.cli.evaluate_contrast import contrast
from smalti.cli.evaluate_distance import distance
from smalti.cli.evaluate_edits import edits
from smalti.cli.evaluate_tokenizer import tokenizer
from smalti.common.checks import check_whole
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.pipeline import Pipeline

_TASKS = 6

app = typer.Typer(
    help="Measure a model: what its pictures show, how they look, its image tokenizer.", no_args_is_help=False
)


@app.callback()
def _group() -> None:
    """Measure a model: what its pictures show, how they look, its image tokenizer."""


app.command("contrast")(contrast)
app.command("distance")(distance)
app.command("edits")(edits)
app.command("tokenizer")(tokenizer)


@app.command("scenes")
@drawing.with_drawing_options
def scenes(
    context: typer.Context,
    images: Annotated[
        int, typer.Option(metavar="K", help="Pictures in all, spread evenly over GenEval's six tasks.")
    ] = 300,
    images_per_prompt: Annotated[
        int, typer.Option("-n", "--images-per-prompt", metavar="N", help="Pictures of each prompt.")
    ] = 1,
    seed: Annotated[
        int, typer.Option(metavar="SEED", help="Which prompts, and the first picture's seed.")
    ] = 0,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Score pictures that are there: DIR/00000/metadata.jsonl and DIR/00000/samples/*.png.",
            show_default=False,
        ),
    ] = None,
    ground_truth: Annotated[
        bool,
        typer.Option("--ground-truth", help="Check the ruler: score right drawings; it must be about 1."),
    ] = False,
    tokenized: Annotated[
        bool,
        typer.Option(
            "--tokenized",
            help="With --ground-truth: score the right drawings after MODEL's image tokenizer, from pixels to "
            "tokens and back. No model with it can be expected to score more.",
        ),
    ] = False,
    lattice: options.Lattice = 0,
    shuffled: Annotated[
        bool,
        typer.Option(
            "--shuffled",
            help="Check the ruler: give every picture (right drawings, or those of --folder) another one's "
            "prompt; it must be near 0.",
        ),
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep the pictures, in the layout that --folder reads.", show_default=False
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Pictures drawn at a time. It changes memory, not the pictures.")
    ] = 16,
    as_json: options.Json = False,
) -> None:
    """Score scenes by GenEval's protocol: six tasks, their mean, and the held-out shape-colour pairs.

    Example: smalti evaluate scenes --model runs/scenes/model --steps 16 --images 300
    """
    started = time.perf_counter()
    model = context.params["model"]
    options.setting_changes(context.params)
    for name, value in (("--batch-size", batch_size), ("--images-per-prompt", images_per_prompt)):
        check_whole(name, value)
    check_whole("--images", images, _TASKS * images_per_prompt)
    check_whole("--seed", seed, 0)
    if folder and (ground_truth or save or model):
        raise SmaltiError(
            "--folder scores pictures that are there: leave out --ground-truth, --save and --model"
        )
    if tokenized and not ground_truth:
        raise SmaltiError("--tokenized goes with --ground-truth")
    if lattice and (folder or not (ground_truth or shuffled)):
        raise SmaltiError("--lattice goes with --ground-truth or --shuffled")
    place = options.check_lattice(lattice)
    if (ground_truth or shuffled) and model and not tokenized:
        raise SmaltiError("--ground-truth and --shuffled check the ruler, not a model: leave out --model")
    if shuffled and save:
        raise SmaltiError("--save would keep pictures with the wrong prompts: leave out --shuffled")
    from smalti.evaluation.suites.scenes.prompts import ground_truth as draw_truth
    from smalti.evaluation.suites.scenes.prompts import shuffle
    from smalti.evaluation.suites.scenes.score import score_folder, score_images

    facts: dict[str, Any] = {"seed": seed}
    passes: list[int] = []
    if folder:
        scores = score_folder(folder, shuffle_seed=seed if shuffled else None)
        facts = {"folder": str(folder)}
    else:
        prompts = _prompts(images, images_per_prompt, seed)
        repeated = [prompt for prompt in prompts for _ in range(images_per_prompt)]
        if ground_truth or shuffled:
            facts |= {"lattice": lattice} if lattice else {}
            size = 256
            if tokenized:
                pipe, settings = drawing.load_for(context.params)
                facts["model"], size = pipe.name, settings.height
            pictures: Iterator[Any] = draw_truth(repeated, size=size, seed=seed, lattice=place)
            if tokenized:
                pictures = _tokenized(pipe, pictures)
        else:
            pipe, settings = drawing.load_for(context.params)
            facts |= drawing.facts(pipe, settings)
            texts = [prompt["prompt"] for prompt in repeated]
            pictures = drawing.draw(pipe, settings, texts, seed=seed, batch_size=batch_size, passes=passes)
        pictures = drawing.watched(pictures, len(repeated), "scoring", show=output.shows_progress(as_json))
        groups = _grouped(pictures, images_per_prompt)
        if save:
            groups = _kept(groups, prompts, save)
        scores = score_images(shuffle(prompts, seed) if shuffled else prompts, groups)
    scores = {**scores, "seconds": round(time.perf_counter() - started, 3)}
    if passes:
        facts["passes"] = round(sum(passes) / len(passes), 3)
    if as_json:
        print(json.dumps({**scores, **facts}))
        return
    for name, score in scores.items():
        print(f"{name:>14}  {'-' if score is None else score}")


def _prompts(images: int, images_per_prompt: int, seed: int) -> list[dict[str, Any]]:
    """Prompts for so many pictures, one task after the other."""
    from smalti.evaluation.suites.scenes.prompts import scene_prompts

    count = images // images_per_prompt
    every = scene_prompts(-(-count // _TASKS), seed)
    per_task = len(every) // _TASKS
    # Where the tasks do not come out even, the first ones have one prompt more.
    sizes = [count // _TASKS + (task < count % _TASKS) for task in range(_TASKS)]
    return [prompt for task, size in enumerate(sizes) for prompt in every[task * per_task :][:size]]


def _grouped(pictures: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """The pictures of one prompt together."""
    while group := list(islice(pictures, size)):
        yield group


def _tokenized(pipe: Pipeline, pictures: Iterator[Any]) -> Iterator[Any]:
    """Pictures (H, W, 3) uint8 as the image tokenizer gives them back."""
    import torch

    pixels = (torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in pictures)
    for picture in drawing.through_tokenizer(pipe, pixels):
        yield picture[0].permute(1, 2, 0).numpy()


def _kept(
    groups: Iterator[list[Any]], prompts: Sequence[dict[str, Any]], folder: Path
) -> Iterator[list[Any]]:
    """The same pictures, written in GenEval's layout on their way."""
    from smalti.evaluation.suites.scenes.score import write_sample

    for index, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        write_sample(folder, index, prompt, group)
        yield group
