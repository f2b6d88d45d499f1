"""`smalti generate`: images from prompts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import options, output
from smalti.cli.output import to_path
from smalti.common.checks import check_choice, check_seed, check_whole
from smalti.errors import SmaltiError, renamed
from smalti.generation.settings import MOST_IMAGES

if TYPE_CHECKING:
    from smalti.editing.scaffold import Scaffold
    from smalti.generation.drawing import Generation
    from smalti.generation.result import PipelineOutput
    from smalti.generation.settings import GenerationSettings
    from smalti.pipeline import Pipeline

Prompts = Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to draw.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="A .png, .jpg or .webp file, or a folder. Several images (-n, or several prompts) become OUT-0.png, "
        "OUT-1.png, ..., those of the first prompt first.",
        show_default=False,
        parser=to_path,
    ),
]
Count = Annotated[
    int, typer.Option("-n", "--images-per-prompt", metavar="N", help="Number of images of each prompt.")
]
Seed = Annotated[
    int | None,
    typer.Option(
        metavar="SEED",
        help="Image k (from 0) of every prompt gets SEED + k. Random by default.",
        show_default=False,
    ),
]
Frames = Annotated[
    Path | None,
    typer.Option(
        metavar="OUT.gif",
        help="The unmasking as an animation: 0.12 s per step, then 2 s of the image. Equal steps in a row are one "
        "frame that lasts as long. Several images become OUT-0.gif, OUT-1.gif, ...",
        show_default=False,
        parser=to_path,
    ),
]
SaveTokens = Annotated[
    Path | None,
    typer.Option(
        metavar="TOKENS.npy",
        help="The final grid of tokens, int32 (rows, columns); for several images (images, rows, columns).",
        show_default=False,
        parser=to_path,
    ),
]
ScaffoldImage = Annotated[
    Path | None,
    typer.Option(
        "--scaffold",
        metavar="IMAGE",
        help="Template that every image keeps in part: a frame, a horizon, boxes. It needs --scaffold-mask.",
        show_default=False,
        parser=to_path,
    ),
]
ScaffoldMask = Annotated[
    Path | None,
    typer.Option(
        "--scaffold-mask",
        metavar="MASK",
        help="Image as large as the template: light where the model draws, dark where the template stays.",
        show_default=False,
        parser=to_path,
    ),
]
BatchSize = Annotated[
    int, typer.Option(metavar="N", help="Images drawn at a time. It changes memory, not the images.")
]
BestOf = Annotated[
    int,
    typer.Option(
        "--best-of",
        metavar="N",
        help="Draw N images for each one that is kept, the one with the best --score.",
    ),
]
Score = Annotated[
    str,
    typer.Option(
        "--score",
        metavar="NAME",
        help="likelihood: by how much the prompt raises the image's own likelihood.",
    ),
]
_SCORES = ("likelihood",)


@options.with_drawing_options
def generate(
    context: typer.Context,
    prompts: Prompts,
    out: Out = None,
    images_per_prompt: Count = 1,
    seed: Seed = None,
    negative_prompt: options.NegativePrompt = None,
    frames: Frames = None,
    save_tokens: SaveTokens = None,
    scaffold: ScaffoldImage = None,
    scaffold_mask: ScaffoldMask = None,
    metadata: options.Metadata = True,
    batch_size: BatchSize = 8,
    best_of: BestOf = 1,
    score: Score = "likelihood",
    as_json: options.Json = False,
) -> None:
    """Draw images from prompts.

    Example: smalti generate "a green pear left of a blue car" -o image.png --seed 0
    """
    started = time.perf_counter()
    check_whole("-n", images_per_prompt, 1, MOST_IMAGES)
    check_whole("--batch-size", batch_size)
    check_whole("--best-of", best_of, 1, MOST_IMAGES // images_per_prompt)
    check_choice("--score", score, _SCORES)
    for prompt in prompts:
        if not prompt.strip():
            raise SmaltiError("prompt must not be empty")
    if seed is not None:
        check_seed(seed, "--seed")
    if not (out or save_tokens or frames):
        raise SmaltiError("nothing to write: name an image with -o (or --frames, or --save-tokens)")
    if (scaffold is None) != (scaffold_mask is None):
        raise SmaltiError("--scaffold and --scaffold-mask must be given together")
    candidates = _seeds(seed, len(prompts), images_per_prompt * best_of)
    seeds = candidates[::best_of]
    texts = [prompt for prompt in prompts for _ in range(images_per_prompt)]
    job = _Job(texts, candidates, negative_prompt, batch_size, metadata, best_of)
    job.images = output.image_paths(out, texts, seeds) if out else []
    job.animations = output.numbered(frames, len(texts)) if frames else []
    for path in job.animations:
        output.check_writable(path, (".gif",), "--frames")
    if save_tokens:
        output.check_writable(save_tokens, (".npy",), "--save-tokens")
    templates = (("--scaffold", scaffold), ("--scaffold-mask", scaffold_mask))
    output.check_apart(
        [
            *(("-o", path) for path in job.images),
            *(("--frames", path) for path in job.animations),
            *([("--save-tokens", save_tokens)] if save_tokens else []),
        ],
        [(name, path) for name, path in templates if path],
    )
    pipe, settings = options.load_for(context.params)
    output.warn_of_unknown_words(pipe.components, [*prompts, negative_prompt or ""])
    if scaffold:
        job.scaffold = _scaffold(pipe, settings, scaffold, scaffold_mask)
    job.seconds["load"] = time.perf_counter() - started
    show = output.shows_progress(as_json)
    job.run(pipe, settings, show)
    if save_tokens:
        _write_tokens(job.tokens, save_tokens)
    job.seconds["total"] = time.perf_counter() - started
    if as_json:
        output.print_json(job.report(pipe, settings, save_tokens, context.params))
    elif show:
        written = [*job.images, *job.animations, *([save_tokens] if save_tokens else [])]
        names = ", ".join(map(str, written[:4])) + (", ..." if len(written) > 4 else "")
        print(f"{names}: seed {job.seeds[0]}, {job.seconds['total']:.1f} s", file=sys.stderr)


def _seeds(seed: int | None, prompts: int, images_per_prompt: int) -> list[int]:
    from smalti.generation.seeds import image_seeds

    return image_seeds(seed, None, prompts, images_per_prompt)


def _scaffold(pipe: Pipeline, settings: GenerationSettings, image: Path, mask: Path | None) -> Scaffold:
    from smalti.editing.scaffold import read_scaffold

    pipe.components.grid(*settings.size)
    with renamed(image="--scaffold", mask="--scaffold-mask"):
        return read_scaffold(pipe.components, image, mask, settings.size)


@dataclass
class _Job:
    """What is drawn, where it goes, and what came of it so far.

    `candidates` has the seeds of `best_of` images for each of `texts`; `seeds` those of the images that were kept.
    """

    texts: list[str]
    candidates: list[int]
    negative_prompt: str | None
    batch_size: int
    metadata: bool
    best_of: int = 1
    scaffold: Scaffold | None = None
    seeds: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    animations: list[Path] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)
    edited: int = 0
    remasked: int = 0
    passes: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(
        default_factory=lambda: {"load": 0.0, "prompt": 0.0, "denoise": 0.0, "decode": 0.0}
    )

    def run(self, pipe: Pipeline, settings: GenerationSettings, show: bool) -> None:
        """Draw and write all images, a batch at a time."""
        size = max(1, self.batch_size // self.best_of)
        for first in range(0, len(self.texts), size):
            self._run_batch(slice(first, first + size), pipe, settings, show)

    def _run_batch(self, batch: slice, pipe: Pipeline, settings: GenerationSettings, show: bool) -> None:
        texts = [text for text in self.texts[batch] for _ in range(self.best_of)]
        drawn = slice(batch.start * self.best_of, batch.stop * self.best_of)
        generation = pipe.start(
            texts,
            settings,
            negative_prompt=self.negative_prompt,
            seed=self.candidates[drawn],
            scaffold=self.scaffold,
        )
        steps = []
        for step in output.progress(
            iter(generation), settings.num_inference_steps, "drawing", show=show, unit="step"
        ):
            if self.animations:
                steps.append(step)
        result, kept = self._kept(generation, pipe)
        self.seeds += result.seeds
        for name in ("prompt", "denoise", "decode"):
            self.seconds[name] += result.seconds[name]
        self.tokens += [grid.numpy() for grid in result.tokens]
        self.edited += sum(result.tokens_edited)
        self.remasked += sum(result.tokens_remasked)
        self.passes += result.passes
        if self.images:
            _write_images(result, self.images[batch], pipe, self.metadata)
        if self.animations:
            started = time.perf_counter()
            frames = pipe.frames(steps)
            _write_animations([frames[index] for index in kept], self.animations[batch])
            self.seconds["decode"] += time.perf_counter() - started

    def _kept(self, generation: Generation, pipe: Pipeline) -> tuple[PipelineOutput, list[int]]:
        """Return the images that are kept, and which of the batch they are."""
        form = "pil" if self.images else "tokens"
        if self.best_of == 1:
            whole = generation.output(form)
            return whole, list(range(len(whole.seeds)))
        from smalti.common.images import to_images
        from smalti.reading.ranking import best_of

        whole = generation.output("tokens")
        started = time.perf_counter()
        best, gains = best_of(pipe.components, whole.tokens, whole.prompts, self.best_of)
        self.gains += [round(gains[index], 5) for index in best]
        self.seconds["score"] = self.seconds.get("score", 0.0) + time.perf_counter() - started
        result = whole.only(best)
        if form == "pil":
            started = time.perf_counter()
            result = replace(result, images=to_images(pipe.components.decode(result.tokens)))
            self.seconds["decode"] += time.perf_counter() - started
        return result, best

    def report(
        self, pipe: Pipeline, settings: GenerationSettings, save_tokens: Path | None, params: dict[str, Any]
    ) -> dict[str, Any]:
        """Return what was drawn and how, ready for JSON."""
        return {
            "images": [str(path) for path in self.images],
            "frames": [str(path) for path in self.animations],
            "tokens": str(save_tokens) if save_tokens else None,
            "prompts": self.texts,
            "negative_prompt": self.negative_prompt,
            **{name: str(params[name]) for name in ("scaffold", "scaffold_mask") if params[name]},
            "seeds": self.seeds,
            **({"best_of": self.best_of, "scores": self.gains} if self.best_of > 1 else {}),
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "peak_memory_mb": output.peak_memory_mb(params["device"]),
            "tokens_edited": self.edited,
            "tokens_remasked": self.remasked,
            "passes": self.passes,
            "settings": settings.to_dict(),
            "model": pipe.components.name,
            "adapters": params["adapter"] or [],
            "device": params["device"],
            "dtype": str(pipe.denoiser.head.dtype).removeprefix("torch."),
            "mode": str(pipe.components.mode),
        }


def _write_images(result: PipelineOutput, places: list[Path], pipe: Pipeline, metadata: bool) -> None:
    import numpy as np

    import smalti
    from smalti.common.files import make_folder
    from smalti.common.images import save_image
    from smalti.editing.embedded import TEXT, embed_tokens
    from smalti.editing.picture import Picture
    from smalti.generation.metadata import describe

    rows: Iterator[Any] = zip(result.images, result.prompts, result.seeds, result.tokens, places, strict=True)
    for index, (image, prompt, seed, tokens, path) in enumerate(rows):
        text = None
        if metadata:
            negative = result.negative_prompts[index] if result.negative_prompts else None
            text = describe(prompt, negative, seed, result.settings, pipe.components.name, smalti.__version__)
            if path.suffix.lower() == ".png":
                # So that a later edit need not encode the image again.
                text[TEXT] = embed_tokens(tokens, pipe.image_tokenizer).to_text(Picture(np.array(image)))
        make_folder(path.parent)
        save_image(image, path, text)


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
