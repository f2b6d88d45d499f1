"""`smalti edit`, `inpaint`, `outpaint`, `vary`: one edit, with the tokens chosen in different ways."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import drawing, options, output
from smalti.common.checks import check_real, check_whole
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.editing.result import EditResult
    from smalti.pipeline import Pipeline

_IMAGE_HELP = (
    "The picture: any size, any kind of file. One that Smalti made brings its tokens along, so that what an edit "
    "leaves alone stays as it is, however many edits follow."
)

ImageFile = Annotated[Path, typer.Argument(metavar="IMAGE", help=_IMAGE_HELP, show_default=False)]
Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="The whole picture as it should be.", show_default=False)
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT.png",
        help="The result, as large as IMAGE; of several (-n) OUT-0.png, OUT-1.png, ...",
        show_default=False,
    ),
]
ShowMask = Annotated[
    Path | None,
    typer.Option(
        metavar="MAP.png", help="Draw over the picture which tiles were chosen.", show_default=False
    ),
]
Count = Annotated[
    int, typer.Option("-n", "--images-per-prompt", metavar="N", help="Results, each with another seed.")
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="SEED",
        help="Result k (from 0) gets SEED + k. By default a new one every time.",
        show_default=False,
    ),
]
KeepPixels = Annotated[
    bool,
    typer.Option(
        "--keep-pixels/--no-keep-pixels",
        help="Take what was not chosen from IMAGE itself, to the last bit, or draw all of the picture from its tokens.",
    ),
]


_RESULT: dict[str, tuple[Any, Any]] = {
    "out": (Out, None),
    "show_mask": (ShowMask, None),
    "keep_pixels": (KeepPixels, True),
    "seed": (Seed, None),
    "images_per_prompt": (Count, 1),
    "as_json": (options.Json, False),
}


def _command(command: Callable[..., None]) -> Callable[..., None]:
    """Give an editing command the options that all of them have: of its result, then of drawing."""
    return drawing.with_drawing_options(drawing.with_options(command, _RESULT))


@_command
def edit(
    context: typer.Context,
    image: ImageFile,
    prompt: Prompt,
    source_prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The whole picture as it is, worded like PROMPT. By default what its file says; an empty one compares "
            "with what the model believes without any prompt.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="MASK.png",
            help="Say where instead: white where the picture may change, as large as IMAGE.",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Set this share of the tiles anew, at random, the least believed first; with --mask, of those in it.",
            show_default=False,
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Set this share of the tiles anew, those that lose most.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="Set the tiles anew that lose more than T of what the worst lose: less is more. By default 0.3.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Change a picture into what PROMPT says, and leave the rest of it alone.

    The model looks for the tiles that it believes in less under PROMPT than under the source prompt, takes those out,
    and sets them anew: recolour, replace, remove or add an object, change the background or the style. Nothing is
    trained for it.

    Example: smalti edit scene.png "a green circle" --source-prompt "a red circle" -o green.png --show-mask chosen.png
    """
    how = {
        "source_prompt": source_prompt,
        "mask": mask,
        "strength": strength,
        "share": share,
        "threshold": threshold,
    }
    _run(context.params, prompt, how)


@_command
def inpaint(
    context: typer.Context,
    image: ImageFile,
    prompt: Prompt,
    mask: Annotated[
        Path,
        typer.Option(
            metavar="MASK.png",
            help="White where the picture is to be painted again, as large as IMAGE. Every tile that it touches is set "
            "anew.",
            show_default=False,
        ),
    ],
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Set only this share of the tiles in the mask anew, at random, the least believed first.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Paint a part of a picture again: fill a hole, put something there, or take something away.

    To take something away, mask it and say what the picture shows without it.

    Example: smalti inpaint scene.png "a blue square" --mask circle.png -o without.png
    """
    _run(context.params, prompt, {"mask": mask, "strength": strength})


@_command
def outpaint(
    context: typer.Context,
    image: ImageFile,
    prompt: Prompt,
    left: Annotated[int, typer.Option(metavar="PIXELS", help="How much to add at the left.")] = 0,
    top: Annotated[int, typer.Option(metavar="PIXELS", help="At the top.")] = 0,
    right: Annotated[int, typer.Option(metavar="PIXELS", help="At the right.")] = 0,
    bottom: Annotated[int, typer.Option(metavar="PIXELS", help="At the bottom.")] = 0,
) -> None:
    """Grow the canvas and go on painting beyond the picture's edges.

    Example: smalti outpaint scene.png "a red circle left of a blue square" --left 64 --right 64 -o wide.png
    """
    for name, value in (("--left", left), ("--top", top), ("--right", right), ("--bottom", bottom)):
        check_whole(name, value, 0)
    if not any((left, top, right, bottom)):
        raise SmaltiError("name an edge to grow: --left, --top, --right or --bottom, in pixels")
    _run(context.params, prompt, {"grow": (left, top, right, bottom)})


@_command
def vary(
    context: typer.Context,
    image: ImageFile,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROMPT]",
            help="The whole picture. By default what its file says, if Smalti made it.",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="How much: the share of tokens that are set anew. 1 is a new picture."
        ),
    ] = 0.5,
) -> None:
    """Draw variations: set a share of the tiles anew, at random, the least believed first.

    Example: smalti vary scene.png -n 4 --strength 0.3 -o like.png
    """
    check_real("--strength", strength, 0, 1, above=True)
    _run(context.params, prompt, {"strength": strength})


def _run(params: Mapping[str, Any], prompt: str | None, how: dict[str, Any]) -> None:
    """What the four commands do; `how` holds the arguments of `Selection`."""
    started = time.perf_counter()
    out, show_mask, count, seed = (params[name] for name in ("out", "show_mask", "images_per_prompt", "seed"))
    options.setting_changes(params)
    check_whole("-n", count)
    if seed is not None:
        check_whole("--seed", seed, 0)
    if prompt is not None and not prompt.strip():
        raise SmaltiError("prompt must not be empty")
    if not (out or show_mask):
        raise SmaltiError("nothing to write: name a picture with -o (or --show-mask)")
    places = output.numbered(out, count) if out else []
    for path in places:
        output.check_writable(path, ".png", "-o")
    if show_mask:
        output.check_writable(show_mask, ".png", "--show-mask")
    from smalti.editing.edit import edit_picture
    from smalti.editing.picture import open_picture
    from smalti.editing.selection import Selection

    selection = Selection(**how)
    # Before the model is loaded: a picture that cannot be read is known at once.
    picture = open_picture(params["image"])
    if prompt is None:
        prompt = picture.text.get("prompt")
        if not prompt:
            raise SmaltiError(f"{params['image']} does not say what it shows: name a PROMPT")
    pipe, settings = drawing.load_for(params)
    height, width = params["height"], params["width"]
    loaded = time.perf_counter() - started
    with options.option_names(), _bar(settings.num_inference_steps, params["as_json"]) as bar:
        result = edit_picture(
            pipe,
            picture,
            prompt,
            selection,
            settings,
            size=None if height is None and width is None else (settings.height, settings.width),
            keep_pixels=params["keep_pixels"],
            num_images_per_prompt=count,
            seed=seed,
            on_step=lambda _: bar.update(),
        )
    for index, path in enumerate(places):
        _write(result, index, path, pipe)
    if show_mask:
        from smalti.common.images import save_png

        save_png(result.map(), show_mask)
    seconds = {"load": loaded, **result.seconds}
    seconds["total"] = time.perf_counter() - started
    if params["as_json"]:
        print(json.dumps(_report(result, places, show_mask, seconds, pipe, params), ensure_ascii=False))
    elif output.shows_progress(False):
        chosen = f"{int(result.region.sum())} of {result.region.numel()} tokens set anew"
        names = ", ".join(map(str, [*places, *([show_mask] if show_mask else [])]))
        print(f"{names}: {chosen}, seed {result.seeds[0]}, {seconds['total']:.1f} s", file=sys.stderr)


def _bar(steps: int, as_json: bool) -> Any:
    from tqdm import tqdm

    show = output.shows_progress(as_json)
    return tqdm(total=steps, desc="editing", unit="step", disable=not show, leave=False)


def _write(result: EditResult, index: int, path: Path, pipe: Pipeline) -> None:
    """A PNG with what made it, and its tokens."""
    import numpy as np

    import smalti
    from smalti.common.images import save_png
    from smalti.editing.kept import TEXT
    from smalti.editing.picture import Picture

    image = result.images[index]
    text = {
        "prompt": result.prompt,
        "seed": str(result.seeds[index]),
        "settings": json.dumps(result.settings.to_dict()),
        "model": pipe.name,
        "Software": f"Smalti {smalti.__version__}",
        TEXT: result.kept(index).to_text(Picture(np.array(image))),
    }
    if result.source_prompt:
        text["source prompt"] = result.source_prompt
    save_png(image, path, text)


def _report(
    result: EditResult,
    places: list[Path],
    show_mask: Path | None,
    seconds: dict[str, float],
    pipe: Pipeline,
    params: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "images": [str(path) for path in places],
        "map": str(show_mask) if show_mask else None,
        "prompt": result.prompt,
        "source_prompt": result.source_prompt,
        "seeds": result.seeds,
        "tokens": result.region.numel(),
        "tokens_chosen": int(result.region.sum()),
        "choosing_passes": result.passes,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "peak_memory_mb": output.peak_memory_mb(params["device"]),
        **drawing.facts(pipe, result.settings),
    }
