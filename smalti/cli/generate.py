"""`smalti generate`: pictures from prompts."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import drawing, options, output
from smalti.common.checks import check_whole
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.pipeline import Pipeline, PipelineOutput


@drawing.with_drawing_options
def generate(
    context: typer.Context,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to draw.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT.png",
            help="The picture. Of several (-n, or several prompts) OUT-0.png, OUT-1.png, ..., those of the "
            "first prompt first. Prompt, seed and settings are in the PNG's text.",
            show_default=False,
        ),
    ] = None,
    images_per_prompt: Annotated[
        int, typer.Option("-n", "--images-per-prompt", metavar="N", help="Pictures of each prompt.")
    ] = 1,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            help="Picture k (from 0) of every prompt gets SEED + k. By default a new one every time.",
            show_default=False,
        ),
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.gif",
            help="The unmasking as an animation, a frame a step; of several OUT-0.gif, OUT-1.gif, ...",
            show_default=False,
        ),
    ] = None,
    save_tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="TOKENS.npy",
            help="The final grid of tokens, int32 (rows, columns); of several (pictures, rows, columns).",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Pictures drawn at a time. It changes memory, not the pictures.")
    ] = 8,
    as_json: options.Json = False,
) -> None:
    """Draw pictures of what prompts say.

    Example: smalti generate "a red circle left of a blue square" -o picture.png --seed 0
    """
    started = time.perf_counter()
    for name, value in (("-n", images_per_prompt), ("--batch-size", batch_size)):
        check_whole(name, value)
    if seed is not None:
        check_whole("--seed", seed, 0)
    for prompt in prompts:
        if not prompt.strip():
            raise SmaltiError("prompt must not be empty")
    count = len(prompts) * images_per_prompt
    if not (out or save_tokens or frames):
        raise SmaltiError("nothing to write: name a picture with -o (or --frames, or --save-tokens)")
    targets = [(out, ".png", "-o"), (frames, ".gif", "--frames")]
    places = {option: output.numbered(path, count) if path else [] for path, _, option in targets}
    for _, suffix, option in targets:
        for path in places[option]:
            output.check_writable(path, suffix, option)
    if save_tokens:
        output.check_writable(save_tokens, ".npy", "--save-tokens")

    pipe, settings = drawing.load_for(context.params)
    from smalti.generation import picture_seeds

    texts = [prompt for prompt in prompts for _ in range(images_per_prompt)]
    seeds = picture_seeds(seed, None, len(prompts), images_per_prompt)
    seconds = {"load": time.perf_counter() - started, "prompt": 0.0, "denoise": 0.0, "decode": 0.0}
    show = output.shows_progress(as_json)
    tokens: list[Any] = []
    edited: list[int] = []
    remasked: list[int] = []
    passes: list[int] = []
    for first in range(0, count, batch_size):
        batch = slice(first, first + batch_size)
        with options.option_names():
            generation = pipe.start(texts[batch], settings, seed=seeds[batch])
        steps = _take(generation, settings.num_inference_steps, show, keep=frames is not None)
        result = generation.output("pil" if out else "tokens")
        for name, taken in result.seconds.items():
            if name in seconds:
                seconds[name] += taken
        tokens += [grid.numpy() for grid in result.tokens]
        edited += result.tokens_edited
        remasked += result.tokens_remasked
        passes += result.passes
        if out:
            _write_pictures(result, places["-o"][batch], pipe)
        if frames:
            decode_started = time.perf_counter()
            animations = pipe.frames(steps)
            seconds["decode"] += time.perf_counter() - decode_started
            _write_animations(animations, places["--frames"][batch])
    if save_tokens:
        _write_tokens(tokens, save_tokens)
    seconds["total"] = time.perf_counter() - started
    if as_json:
        report = {
            "images": [str(path) for path in places["-o"]],
            "frames": [str(path) for path in places["--frames"]],
            "tokens": str(save_tokens) if save_tokens else None,
            "prompts": texts,
            "seeds": seeds,
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "peak_memory_mb": output.peak_memory_mb(context.params["device"]),
            "tokens_edited": sum(edited),
            "tokens_remasked": sum(remasked),
            "passes": passes,
            "settings": settings.to_dict(),
            "model": pipe.name,
            "device": context.params["device"],
            "dtype": str(pipe.denoiser.head.dtype).removeprefix("torch."),
            "mode": str(pipe.mode),
        }
        print(json.dumps(report, ensure_ascii=False))
    elif show:
        written = [*places["-o"], *places["--frames"], *([save_tokens] if save_tokens else [])]
        names = ", ".join(map(str, written[:4])) + (", ..." if len(written) > 4 else "")
        print(f"{names}: seed {seeds[0]}, {seconds['total']:.1f} s", file=sys.stderr)


def _take(generation: Any, steps: int, show: bool, *, keep: bool) -> list[Any]:
    """Take all steps with a bar on the terminal; the steps, if they are to be kept."""
    from tqdm import tqdm

    bar = tqdm(generation, total=steps, desc="drawing", unit="step", disable=not show, leave=False)
    kept = []
    for step in bar:
        if keep:
            kept.append(step)
    return kept


def _write_pictures(result: PipelineOutput, places: list[Path], pipe: Pipeline) -> None:
    import numpy as np

    import smalti
    from smalti.common.images import save_png
    from smalti.editing.kept import TEXT, keep
    from smalti.editing.picture import Picture

    rows = zip(result.images, result.prompts, result.seeds, result.tokens, places, strict=True)
    for image, prompt, seed, tokens, path in rows:
        text = {
            "prompt": prompt,
            "seed": str(seed),
            "settings": json.dumps(result.settings.to_dict()),
            "model": pipe.name,
            "Software": f"Smalti {smalti.__version__}",
            # So that a later edit need not encode the picture again.
            TEXT: keep(tokens, pipe.image_tokenizer).to_text(Picture(np.array(image))),
        }
        save_png(image, path, text)


def _write_animations(animations: list[list[Any]], places: list[Path]) -> None:
    from smalti.common.images import save_gif

    for frames, path in zip(animations, places, strict=True):
        save_gif(frames, path)


def _write_tokens(tokens: list[Any], path: Path) -> None:
    import numpy as np

    from smalti.common.files import atomic_path

    grids = np.stack(tokens).astype(np.int32)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, grids[0] if len(grids) == 1 else grids)
