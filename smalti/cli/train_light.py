"""`smalti train-light`: a light layer, which draws more steps with as many passes of the model."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from smalti.cli import options, output
from smalti.cli.output import to_path
from smalti.errors import SmaltiError, renamed

_TRAINING = "Training"
Prompts = Annotated[
    Path,
    typer.Argument(
        metavar="PROMPTS", help="Text file with a prompt a line.", show_default=False, parser=to_path
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="File of the layer, for --light; it ends in .safetensors.",
        show_default=False,
        parser=to_path,
    ),
]
DrawingSteps = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Steps of drawing with the layer. By default four times the model's own.",
        show_default=False,
    ),
]
Every = Annotated[int, typer.Option(metavar="K", help="Steps from one pass of the model to the next.")]
Steps = Annotated[int, typer.Option(metavar="N", rich_help_panel=_TRAINING, help="Number of steps.")]
Batch = Annotated[int, typer.Option(metavar="N", rich_help_panel=_TRAINING, help="Images in a step.")]
Rate = Annotated[
    float, typer.Option(metavar="RATE", rich_help_panel=_TRAINING, help="First learning rate of AdamW.")
]
Seed = Annotated[
    int, typer.Option(metavar="SEED", rich_help_panel=_TRAINING, help="Seed of layer, images and states.")
]


@options.with_loading_options
def train_light(
    context: typer.Context,
    prompts: Prompts,
    out: Out,
    drawing_steps: DrawingSteps = None,
    every: Every = 4,
    steps: Steps = 600,
    batch_size: Batch = 8,
    learning_rate: Rate = 1e-3,
    seed: Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Train a light layer that draws more steps with as many passes, with the model frozen.

    The model draws the prompts, and the layer learns to predict what the model would. Then --light names the file and
    --reuse light:every=K runs the layer between the passes.

    Example: smalti train-light prompts.txt --model scenes -o light.safetensors
    """
    from smalti.common.files import read_lines
    from smalti.storage.light import LIGHT, save_light
    from smalti.storage.small_files import check_replaceable
    from smalti.training.light import LightTraining, train_light

    started = time.perf_counter()
    with renamed(every="--every"):
        training = LightTraining(steps, batch_size, learning_rate, every, seed)
    texts = read_lines(prompts)
    if not texts:
        raise SmaltiError(f"PROMPTS must be a file with a prompt a line, and {prompts} has none")
    output.check_writable(out, (".safetensors",), "-o")
    output.check_apart([("-o", out)], [("PROMPTS", prompts)])
    check_replaceable(out, LIGHT, "smalti train-light")
    pipe = options.load_pipeline(context.params)
    own = pipe.settings.num_inference_steps
    settings = pipe.settings.replaced(num_inference_steps=4 * own if drawing_steps is None else drawing_steps)
    show, losses = output.shows_progress(as_json), [0.0]
    with output.counted("training", show=show) as report:

        def after(step: int, loss: float) -> None:
            losses.append(loss)
            report(step, steps)

        with renamed(num_inference_steps="--drawing-steps"):
            light = train_light(pipe.components, texts, settings, training, report=after)
    save_light(light, out, base=pipe.components.folder)
    seconds = time.perf_counter() - started
    last = losses[-10:]
    loss = sum(last) / len(last)
    if as_json:
        output.print_json(
            {
                "output": str(out),
                "model": pipe.components.name,
                "drawing_steps": settings.num_inference_steps,
                "every": every,
                "steps": steps,
                "loss": round(loss, 5),
                "seconds": round(seconds, 4),
            }
        )
        return
    print(
        f"{out}: {loss:.3f} nats from the model at the end; use it with --light {out} --reuse light:every={every}"
    )
    if show:
        print(f"{seconds:.1f} s", file=sys.stderr)
