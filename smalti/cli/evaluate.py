"""`smalti evaluate`: a suite's scores of a model, of a folder, or of its ground truth."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import options, output
from smalti.cli.output import to_path
from smalti.errors import SmaltiError
from smalti.generation.settings import GenerationSettings

if TYPE_CHECKING:
    from smalti.evaluation.subject import Subject

_TOKENIZER = {"model", "device", "hub_revision"}
_MODEL = {
    *_TOKENIZER,
    *("dtype", "quantize", "quantize_activations", "offload", "memory", "image_dtype", "compile"),
    *("adapter", "adapter_scale", "verifier", "classifier", "light", "word"),
}
_SAMPLING = {*_MODEL, "preset", *(field.name for field in dataclasses.fields(GenerationSettings))}
# Options of a model that count, by what a run needs of it.
_USED = {"nothing": set(), "image_tokenizer": _TOKENIZER, "model": _MODEL, "sampling": _SAMPLING}


SuiteName = Annotated[
    str,
    typer.Argument(
        metavar="SUITE",
        help="A suite such as scenes, with its own options as in scenes:lattice=8. The word list shows all suites and "
        "their options.",
        show_default=False,
    ),
]
Images = Annotated[
    int | None,
    typer.Option(
        "--images",
        "--count",
        metavar="K",
        help="Images in all, or edits, or scenes of each kind. The default is the suite's own.",
        show_default=False,
    ),
]
ImagesPerPrompt = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--images-per-prompt",
        metavar="N",
        help="Number of images of each prompt: 4 for geneval and dpg, else 1.",
        show_default=False,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="SEED",
        help="Which prompts, and the seed of the first image: 42 for geneval, else 0.",
        show_default=False,
    ),
]
BatchSize = Annotated[
    int, typer.Option(metavar="N", help="Images drawn at a time. It changes memory, not the images.")
]
SuiteOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="An option of the suite; may be repeated.", show_default=False
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Score images that exist: DIR/00000/metadata.jsonl and DIR/00000/samples/*.png.",
        show_default=False,
        parser=to_path,
    ),
]
GroundTruth = Annotated[
    bool,
    typer.Option("--ground-truth", help="Check the scorer with ground-truth renderings: about 1."),
]
Tokenized = Annotated[
    bool,
    typer.Option(
        "--tokenized",
        help="With --ground-truth: score the renderings after MODEL's image tokenizer, the most that a model with it "
        "can be expected to score.",
    ),
]
Shuffled = Annotated[
    bool,
    typer.Option(
        "--shuffled",
        help="Check the scorer with the prompts of other images: near 0. The images are ground-truth renderings where "
        "the suite has them, or those of --folder.",
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        "--prompts",
        metavar="FILE|K",
        help="Prompts in place of the suite's own: a file such as GenEval's evaluation_metadata.jsonl, a folder of "
        "lists, or OWNER/NAME:PATH on the hub. A number takes a fixed subset of K prompts. Both may be given.",
        show_default=False,
    ),
]
Rewrite = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Draw rewritten prompts, and score by the prompts themselves: a file with prompt and rewritten in each "
        "line, command:COMMAND, or model:FOLDER or model:HUB_ID of a language model. The report says how.",
        show_default=False,
    ),
]
Save = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Write the images, as --folder reads them. A killed run of a published benchmark goes on.",
        show_default=False,
        parser=to_path,
    ),
]
Report = Annotated[
    list[Path] | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write the scores and all settings: FILE.json or FILE.md; may be repeated.",
        show_default=False,
        parser=to_path,
    ),
]


@options.with_drawing_options
def evaluate(
    context: typer.Context,
    suite: SuiteName,
    images: Images = None,
    images_per_prompt: ImagesPerPrompt = None,
    seed: Seed = None,
    batch_size: BatchSize = 16,
    suite_options: SuiteOptions = None,
    folder: Folder = None,
    ground_truth: GroundTruth = False,
    tokenized: Tokenized = False,
    shuffled: Shuffled = False,
    prompts: Prompts = None,
    rewrite: Rewrite = None,
    save: Save = None,
    report: Report = None,
    as_json: options.Json = False,
) -> None:
    """Measure a model: what its images show, how they look, its edits, its image tokenizer.

    Example: smalti evaluate scenes --steps 16 --images 300
    """
    started = time.perf_counter()
    options.setting_changes(context.params)
    from smalti.evaluation.controls import check_request, needs_of
    from smalti.evaluation.ranks import joined, own_device
    from smalti.evaluation.reporting import write_report
    from smalti.evaluation.request import Request
    from smalti.evaluation.run import evaluate as run
    from smalti.evaluation.suite import describe_suites, find_suite

    if suite == "list":
        print(describe_suites())
        return
    chosen = find_suite(suite, suite_options or ())
    each = chosen.images_per_prompt if images_per_prompt is None else images_per_prompt
    images, file = _subset(prompts or (), images, each)
    seed = chosen.first_seed if seed is None else seed
    request = Request(
        images, each, seed, batch_size, folder, ground_truth, tokenized, shuffled, file, save, rewrite
    )
    check_request(chosen, request)
    for path in report or ():
        output.check_writable(path, (".json", ".md"), "--report")
    needs = needs_of(chosen, request)
    _check_used(context, needs)
    if save is not None:
        _check_save(save)
    with joined() as rank:
        model, device = context.params["model"] or chosen.model, own_device(context.params["device"])
        subject = _subject({**context.params, "model": model, "device": device}, needs)
        with _counted(output.shows_progress(as_json) and rank == 0) as progress:
            found = run(chosen, request, subject, progress=progress)
    seconds = round(time.perf_counter() - started, 3)
    if rank > 0:
        return
    for path in report or ():
        write_report(path, chosen, found)
    if as_json:
        print(json.dumps({**found.scores, "seconds": seconds, **found.metadata}))
    else:
        print(chosen.table(found.scores))
        print(f"{'seconds':>14}  {seconds}")


def _subset(prompts: Sequence[str], images: int | None, each: int) -> tuple[int | None, Path | None]:
    """Return the number of images and the file that `--prompts` and `--images` mean.

    Args:
        prompts: values of `--prompts`: a file, a number of prompts, or both.
        images: value of `--images`.
        each: number of images of each prompt.
    """
    counts = [int(text) for text in prompts if text.isascii() and text.isdecimal() and len(text) < 10]
    files = [text for text in prompts if not (text.isascii() and text.isdecimal() and len(text) < 10)]
    if len(counts) > 1 or len(files) > 1 or (counts and images is not None):
        raise SmaltiError(
            "--prompts must be one file, one number of prompts, or both; a number cannot be used with --images",
            argument="--prompts",
        )
    if counts and not counts[0]:
        raise SmaltiError("--prompts must be a file or a number of at least 1, not 0", argument="--prompts")
    return (counts[0] * each if counts else images), (Path(files[0]) if files else None)


def _check_used(context: typer.Context, needs: str) -> None:
    """Raise SmaltiError for an option of a model that has no effect."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        given = source is not None and source.name == "COMMANDLINE"
        if given and parameter.name in _SAMPLING - _USED[needs]:
            option = parameter.opts[0]
            raise SmaltiError(f"{option} has no effect on what is measured here: leave out {option}")


def _check_save(folder: Path) -> None:
    """Make the folder of `--save`; raise SmaltiError unless files can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmaltiError(f"--save cannot be written: {folder}: {error.strerror or error}") from error
    output.check_folder(folder, folder, "--save")


@contextmanager
def _counted(show: bool) -> Iterator[Callable[[int, int], None]]:
    """Give a callback that counts samples on the terminal."""
    from tqdm import tqdm

    with tqdm(desc="scoring", unit="sample", disable=not show, leave=False) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


def _subject(params: dict[str, Any], needs: str) -> Subject | None:
    """Return the model that the options name, as far as it is needed."""
    from smalti.evaluation.subject import Subject

    if needs == "nothing":
        return None
    if needs == "image_tokenizer":
        from smalti.common.devices import find_device
        from smalti.storage.folder import load_image_tokenizer
        from smalti.storage.loading import find_model

        folder = find_model(params["model"], revision=params["hub_revision"], parts=("image_tokenizer",))
        return Subject(folder.name, load_image_tokenizer(folder, device=find_device(params["device"])))
    return Subject.of(*options.load_for(params))
