"""`smalti evaluate scenes`: GenEval's protocol over scenes, for a model or for pictures in a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.checks import check_whole
from smalti.commands import options, output
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.pipeline import Pipeline
    from smalti.settings import GenerationSettings

_TASKS = 6

app = typer.Typer(help="Measure how well pictures show what prompts say.", no_args_is_help=False)


@app.callback()
def _group() -> None:
    """Measure how well pictures show what prompts say."""


@app.command("scenes")
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
    preset: options.Preset = None,
    num_inference_steps: options.Steps = None,
    guidance_scale: options.Guidance = None,
    guidance_interval: options.GuidanceInterval = None,
    edit_threshold: options.EditThreshold = None,
    budget: options.Budget = None,
    shift: options.Shift = None,
    order: options.Order = None,
    order_temperature: options.OrderTemperature = None,
    order_temperature_schedule: options.OrderSchedule = None,
    draw: options.Draw = None,
    temperature: options.Temperature = None,
    temperature_schedule: options.TemperatureSchedule = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    final: options.Final = None,
    reuse: options.Reuse = None,
    reuse_every: options.ReuseEvery = None,
    height: options.Height = None,
    width: options.Width = None,
    model: options.Model = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    offload: options.Offload = None,
    memory: options.Memory = None,
    revision: options.Revision = None,
) -> None:
    """Score scenes by GenEval's protocol: six tasks, their mean, and the held-out shape-colour pairs.

    Example: smalti evaluate scenes --model runs/scenes/model --steps 16 --images 300
    """
    started = time.perf_counter()
    changes = options.setting_changes(context.params)
    for name, value in (("--batch-size", batch_size), ("--images-per-prompt", images_per_prompt)):
        check_whole(name, value)
    check_whole("--images", images, _TASKS * images_per_prompt)
    check_whole("--seed", seed, 0)
    if folder and (ground_truth or save or model):
        raise SmaltiError(
            "--folder scores pictures that are there: leave out --ground-truth, --save and --model"
        )
    if (ground_truth or shuffled) and model:
        raise SmaltiError("--ground-truth and --shuffled check the ruler, not a model: leave out --model")
    if shuffled and save:
        raise SmaltiError("--save would keep pictures with the wrong prompts: leave out --shuffled")
    from smalti.evaluation.geneval import score_folder, score_images
    from smalti.evaluation.prompts import ground_truth as draw_truth
    from smalti.evaluation.prompts import shuffle

    facts: dict[str, Any] = {"seed": seed}
    if folder:
        scores = score_folder(folder, shuffle_seed=seed if shuffled else None)
        facts = {"folder": str(folder)}
    else:
        prompts = _prompts(images, images_per_prompt, seed)
        repeated = [prompt for prompt in prompts for _ in range(images_per_prompt)]
        if ground_truth or shuffled:
            pictures: Iterator[Any] = draw_truth(repeated, seed=seed)
        else:
            pipe = options.load_pipeline(model, device, dtype, quantize, offload, memory, revision)
            with options.option_names():
                settings = pipe.preset(preset).replaced(changes)
            facts |= {"model": pipe.name, "mode": str(pipe.mode), "settings": settings.to_dict()}
            pictures = _draw(pipe, settings, repeated, seed, batch_size)
        pictures = _watched(pictures, len(repeated), show=output.shows_progress(as_json))
        groups = _grouped(pictures, images_per_prompt)
        if save:
            groups = _kept(groups, prompts, save)
        scores = score_images(shuffle(prompts, seed) if shuffled else prompts, groups)
    scores = {**scores, "seconds": round(time.perf_counter() - started, 3)}
    if as_json:
        print(json.dumps({**scores, **facts}))
        return
    for name, score in scores.items():
        print(f"{name:>14}  {'-' if score is None else score}")


def _prompts(images: int, images_per_prompt: int, seed: int) -> list[dict[str, Any]]:
    """Prompts for so many pictures, one task after the other."""
    from smalti.evaluation.prompts import scene_prompts

    count = images // images_per_prompt
    every = scene_prompts(-(-count // _TASKS), seed)
    per_task = len(every) // _TASKS
    # Where the tasks do not come out even, the first ones have one prompt more.
    sizes = [count // _TASKS + (task < count % _TASKS) for task in range(_TASKS)]
    return [prompt for task, size in enumerate(sizes) for prompt in every[task * per_task :][:size]]


def _draw(
    pipe: Pipeline,
    settings: GenerationSettings,
    prompts: Sequence[dict[str, Any]],
    seed: int,
    batch_size: int,
) -> Iterator[Any]:
    """The model's picture of each prompt; picture i has the seed `seed` + i."""
    for first in range(0, len(prompts), batch_size):
        texts = [prompt["prompt"] for prompt in prompts[first : first + batch_size]]
        seeds = [seed + first + index for index in range(len(texts))]
        with options.option_names():
            generation = pipe.start(texts, settings, seed=seeds)
        yield from generation.output().images


def _grouped(pictures: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """The pictures of one prompt together."""
    while group := list(islice(pictures, size)):
        yield group


def _kept(
    groups: Iterator[list[Any]], prompts: Sequence[dict[str, Any]], folder: Path
) -> Iterator[list[Any]]:
    """The same pictures, written in GenEval's layout on their way."""
    from smalti.evaluation.geneval import write_sample

    for index, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        write_sample(folder, index, prompt, group)
        yield group


def _watched(pictures: Iterator[Any], count: int, *, show: bool) -> Iterator[Any]:
    """The same pictures, counted on the terminal."""
    from tqdm import tqdm

    return iter(tqdm(pictures, total=count, desc="scoring", unit="picture", disable=not show, leave=False))
