"""`smalti evaluate edits`: edits of drawn scenes whose true result is known."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import drawing, options, output
from smalti.common.checks import check_choice, check_whole
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.evaluation.suites.scenes.edit_pairs import EditPair
    from smalti.evaluation.suites.scenes.edits import Edited

_TRUTH = "ground_truth"
_WAYS = ("automatic", "true_mask", "redraw_all", "random_share")
_KINDS = 5


@drawing.with_drawing_options
def edits(
    context: typer.Context,
    count: Annotated[
        int, typer.Option("--edits", metavar="K", help="Edits in all, spread evenly over the five kinds.")
    ] = 200,
    ways: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="How tokens are chosen, with commas between: by belief (automatic), those that truly change "
            "(true_mask), all of them (redraw_all), and as many as by belief at random (random_share).",
        ),
    ] = ",".join(_WAYS),
    seed: Annotated[int, typer.Option(metavar="SEED", help="Which edits, and the first one's seed.")] = 0,
    lattice: options.Lattice = 8,
    ground_truth: Annotated[
        bool,
        typer.Option("--ground-truth", help="Check the ruler: score the true results; all must be about 1."),
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the pictures: before, the true result, every way's result and which tokens it chose.",
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Score edits: recolour, replace a shape, remove, add, change the background, each with a known true result.

    Success: the detector sees what the new prompt asks for. Kept: what the edit leaves alone is still there, in its
    place. The PSNR is taken outside of what truly changes, and the IoU between the tokens chosen and those.

    Example: smalti evaluate edits --edits 200
    """
    started = time.perf_counter()
    check_whole("--edits", count, _KINDS)
    check_whole("--seed", seed, 0)
    place = options.check_lattice(lattice)
    names = [name.strip() for name in ways.split(",")]
    for name in names:
        check_choice("--ways", name, _WAYS)
    if "random_share" in names and "automatic" not in names[: names.index("random_share")]:
        raise SmaltiError("--ways must have automatic before random_share, which draws as many tokens")
    if ground_truth and context.params["model"]:
        raise SmaltiError("--ground-truth checks the ruler, not a model: leave out --model")
    if save is not None:
        _make_folder(save)
    facts: dict[str, Any] = {"edits": count, "lattice": lattice, "seed": seed}
    pipe = settings = None
    if not ground_truth:
        pipe, settings = drawing.load_for(context.params)
        facts |= drawing.facts(pipe, settings)
        if settings.height != settings.width:
            raise SmaltiError(
                f"--height and --width must be the same, not {settings.height} and {settings.width}"
            )
    from smalti.evaluation.suites.scenes.detector import detect
    from smalti.evaluation.suites.scenes.edit_pairs import edit_pairs
    from smalti.evaluation.suites.scenes.edits import edit_by, score_edit, summarize, truth

    size = settings.height if settings else 256
    rows: dict[str, list[Any]] = {}
    pairs = edit_pairs(count, seed=seed, lattice=place)
    pairs = drawing.watched(pairs, count, "editing", show=output.shows_progress(as_json))
    for index, pair in enumerate(pairs):
        if pipe is None:
            results: Iterator[tuple[str, Edited]] = iter([(_TRUTH, truth(pair, size=size))])
        else:
            with options.option_names():
                results = edit_by(pipe, pair, settings, seed=seed + index, size=size, ways=names)
        seen = detect(pair.pictures(size)[0])
        for way, edited in results:
            rows.setdefault(way, []).append((pair.kind, score_edit(pair, edited, seen, size=size)))
            if save is not None:
                _keep(save / f"{index:05d}", pair, way, edited, size)
    scores = {way: summarize(found) for way, found in rows.items()}
    facts["seconds"] = round(time.perf_counter() - started, 3)
    if as_json:
        print(json.dumps({**scores, **facts}))
        return
    _print(scores)
    print(f"{facts['seconds']} seconds")


def _print(scores: dict[str, Any]) -> None:
    """A table of the means, then one of each way's kinds."""
    numbers = [name for name in next(iter(scores.values())) if name != "by_kind"]
    widths = [max(len(name), 7) for name in numbers]

    def line(first: str, cells: list[str]) -> str:
        return f"{first:<24}" + "".join(
            f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True)
        )

    print(line("", numbers))
    for way, found in scores.items():
        for kind, row in {"mean": found, **found["by_kind"]}.items():
            cells = ["-" if row[name] is None else f"{row[name]:.2f}" for name in numbers]
            print(line(way if kind == "mean" else f"  {kind}", cells))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmaltiError(f"--save cannot be written: {folder}: {error.strerror or error}") from error


def _keep(folder: Path, pair: EditPair, way: str, edited: Edited, size: int) -> None:
    """before.png, truth.png, WAY.png, WAY-chosen.png and edit.json."""
    from smalti.common.files import write_json_atomic
    from smalti.common.images import save_image, to_pil
    from smalti.editing.blending import draw_map
    from smalti.editing.canvas import fit

    _make_folder(folder)
    before, after = pair.pictures(size)
    chosen = draw_map(before, fit((size, size), (size, size)), edited.region, size // len(edited.region))
    pictures = {
        "before": to_pil(before),
        "truth": to_pil(after),
        way: to_pil(edited.pixels),
        f"{way}-chosen": chosen,
    }
    for name, picture in pictures.items():
        save_image(picture, folder / f"{name}.png")
    prompts = {"kind": pair.kind, "source_prompt": pair.source_prompt, "prompt": pair.prompt}
    write_json_atomic(folder / "edit.json", prompts)
