"""`smalti edit`, `inpaint`, `outpaint`, `vary`: one edit, with the tokens chosen in different ways."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import options, output
from smalti.cli.edit_options import RESULT, ImageFile, Prompt
from smalti.cli.output import to_path
from smalti.cli.pictures import with_own_model
from smalti.common.checks import check_real, check_seed, check_whole
from smalti.errors import SmaltiError
from smalti.generation.settings import MOST_IMAGES

if TYPE_CHECKING:
    from smalti.editing.result import EditResult
    from smalti.pipeline import Pipeline


def _command(command: Callable[..., None]) -> Callable[..., None]:
    """Give an editing command the options that all of them have: those of the result, then those of drawing."""
    return options.with_drawing_options(options.with_options(command, RESULT))


@_command
def edit(
    context: typer.Context,
    image: ImageFile,
    prompt: Prompt,
    source_prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The whole image as it is, worded like PROMPT. The default is the prompt in the file; an empty text "
            "compares with no prompt.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="MASK.png",
            help="Edit only where this mask, as large as IMAGE, is white.",
            show_default=False,
            parser=to_path,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Fill this share of the tokens again, at random, favouring the least likely; with --mask, of those in "
            "it.",
            show_default=False,
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Fill this share of the tokens again, those whose likelihood drops most.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="Fill the tokens again whose likelihood drops by more than T of the largest drop. A smaller T "
            "selects more. By default 0.3.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Edit an image to match PROMPT, and leave the rest unchanged.

    Smalti selects the tokens that are less likely under PROMPT than under the source prompt, masks them and fills them
    again. This recolours, replaces, removes or adds an object, or changes the background or the style. It needs no
    training.

    Example: smalti edit scene.png "a blue car" --source-prompt "a green car" -o blue.png --show-mask chosen.png
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
            help="Mask as large as IMAGE: white areas are painted again. Every token that it touches is filled again.",
            show_default=False,
            parser=to_path,
        ),
    ],
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Fill only this share of the tokens in the mask again, at random, favouring the least likely.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Paint a part of an image again: fill a hole, put something there, or take something away.

    To take something away, mask it and say what the image shows without it.

    Example: smalti inpaint scene.png "a blue car" --mask pear.png -o without.png
    """
    _run(context.params, prompt, {"mask": mask, "strength": strength})


@_command
def outpaint(
    context: typer.Context,
    image: ImageFile,
    prompt: Prompt,
    left: Annotated[int, typer.Option(metavar="PIXELS", help="Pixels to add at the left.")] = 0,
    top: Annotated[int, typer.Option(metavar="PIXELS", help="Pixels to add at the top.")] = 0,
    right: Annotated[int, typer.Option(metavar="PIXELS", help="Pixels to add at the right.")] = 0,
    bottom: Annotated[int, typer.Option(metavar="PIXELS", help="Pixels to add at the bottom.")] = 0,
) -> None:
    """Grow the canvas and paint beyond the image's edges.

    Example: smalti outpaint scene.png "a green pear left of a blue car" --left 64 --right 64 -o wide.png
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
            help="The whole image. The default is the prompt in the file, if Smalti made it.",
            show_default=False,
        ),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Share of the tokens that are filled again. 1 is a new image."),
    ] = 0.5,
) -> None:
    """Draw variations: fill a share of the tokens again, at random, favouring the least likely.

    Example: smalti vary scene.png -n 4 --strength 0.3 -o like.png
    """
    check_real("--strength", strength, 0, 1, above=True)
    _run(context.params, prompt, {"strength": strength})


def _run(params: Mapping[str, Any], prompt: str | None, how: dict[str, Any]) -> None:
    """Do what the four commands do; `how` holds the arguments of `Selection`."""
    started = time.perf_counter()
    out, show_mask, count, seed = (params[name] for name in ("out", "show_mask", "images_per_prompt", "seed"))
    options.setting_changes(params)
    check_whole("-n", count, 1, MOST_IMAGES)
    if seed is not None:
        check_seed(seed, "--seed")
    if prompt is not None and not prompt.strip():
        raise SmaltiError("prompt must not be empty")
    if not (out or show_mask):
        raise SmaltiError("nothing to write: name an image with -o (or --show-mask)")
    from smalti.editing.edit import start_edit
    from smalti.editing.picture import open_picture
    from smalti.editing.selection import Selection
    from smalti.generation.seeds import image_seeds

    seeds = image_seeds(seed, None, 1, count)
    selection = Selection(**how)
    # Before the model is loaded: an image that cannot be read is known at once.
    picture = open_picture(params["image"])
    if prompt is None:
        prompt = picture.prompt
        if not prompt:
            raise SmaltiError(f"{params['image']} does not say what it shows: name a PROMPT")
    places = output.image_paths(out, [prompt] * count, seeds) if out else []
    if show_mask:
        output.check_writable(show_mask, (".png",), "--show-mask")
    _check_apart(params, places, how.get("mask"))
    pipe, settings = options.load_for(with_own_model(params, [picture]))
    output.warn_of_unknown_words(pipe.components, [prompt, params["negative_prompt"] or ""])
    height, width = params["height"], params["width"]
    loaded = time.perf_counter() - started
    edit = start_edit(
        pipe.components,
        picture,
        prompt,
        selection,
        settings,
        size=None if height is None and width is None else settings.size,
        negative_prompt=params["negative_prompt"],
        keep_pixels=params["keep_pixels"],
        blend=params["blend"],
        num_images_per_prompt=count,
        seed=seeds,
    )
    show = output.shows_progress(params["as_json"])
    for _ in output.progress(iter(edit), settings.num_inference_steps, "editing", show=show, unit="step"):
        pass
    result = edit.output()
    for index, path in enumerate(places):
        _write(result, index, path, pipe, params["metadata"])
    if show_mask:
        from smalti.common.images import save_image

        save_image(result.map(), show_mask)
    seconds = {"load": loaded, **result.seconds}
    seconds["total"] = time.perf_counter() - started
    if params["as_json"]:
        output.print_json(_report(result, places, show_mask, seconds, pipe, params))
    elif show:
        chosen = f"{int(result.region.sum())} of {result.region.numel()} tokens filled again"
        names = ", ".join(map(str, [*places, *([show_mask] if show_mask else [])]))
        print(f"{names}: {chosen}, seed {result.seeds[0]}, {seconds['total']:.1f} s", file=sys.stderr)


def _check_apart(params: Mapping[str, Any], places: list[Path], mask: Path | None) -> None:
    """Raise SmaltiError if an output is another one, or the mask; the result alone may replace IMAGE."""
    maps = [("--show-mask", params["show_mask"])] if params["show_mask"] else []
    output.check_apart([*(("-o", path) for path in places), *maps], [("--mask", mask)] if mask else [])
    output.check_apart(maps, [("IMAGE", params["image"])])


def _write(result: EditResult, index: int, path: Path, pipe: Pipeline, metadata: bool) -> None:
    """Write an image with what made it and, into a PNG, its tokens."""
    import numpy as np

    import smalti
    from smalti.common.files import make_folder
    from smalti.common.images import save_image
    from smalti.editing.embedded import TEXT
    from smalti.editing.picture import Picture
    from smalti.generation.metadata import describe

    image, text = result.images[index], None
    if metadata:
        text = describe(
            result.prompt,
            result.negative_prompt,
            result.seeds[index],
            result.settings,
            pipe.components.name,
            smalti.__version__,
        )
        if result.source_prompt:
            text["source prompt"] = result.source_prompt
        if path.suffix.lower() == ".png":
            text[TEXT] = result.embedded(index).to_text(Picture(np.array(image)))
    make_folder(path.parent)
    save_image(image, path, text)


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
        "negative_prompt": result.negative_prompt,
        "seeds": result.seeds,
        "tokens": result.region.numel(),
        "tokens_chosen": int(result.region.sum()),
        "choosing_passes": result.passes,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "peak_memory_mb": output.peak_memory_mb(params["device"]),
        "model": pipe.components.name,
        "mode": str(pipe.components.mode),
        "settings": result.settings.to_dict(),
    }
