"""`smalti evaluate contrast`: what a model has understood of its prompts, without drawing anything."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from smalti.cli import drawing, options, output
from smalti.common.checks import check_whole


def contrast(
    images: Annotated[int, typer.Option(metavar="K", help="Scenes of each kind.")] = 96,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Which scenes.")] = 0,
    lattice: options.Lattice = 8,
    as_json: options.Json = False,
    model: options.Model = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    offload: options.Offload = None,
    memory: options.Memory = None,
    compile: options.Compile = False,
    revision: options.Revision = None,
) -> None:
    """Whether a model tells its prompts apart: the loss of scenes under their own prompt and under one nearly the same.

    The other prompt has another shape, colour or number, the opposite relation, or the colours of its two objects
    swapped; the last also where one of the pairs was never shown in training. It is measured with the most, and nearly
    the most, of the tokens hidden. nats is by how much the loss of a picture's hidden tokens is higher under the other
    prompt; right is the share of pictures for which it is higher, 0.5 by chance.

    Example: smalti evaluate contrast --model runs/scenes/model
    """
    started = time.perf_counter()
    check_whole("--images", images)
    check_whole("--seed", seed, 0)
    place = options.check_lattice(lattice)
    pipe = options.load_pipeline(model, device, dtype, quantize, offload, memory, compile, revision)
    from smalti.evaluation.suites.scenes.contrast import KINDS, MASK_RATIOS, measure_contrasts

    show = output.shows_progress(as_json)
    found = {
        kind: measure_contrasts(
            pipe,
            kind,
            images,
            seed=seed,
            lattice=place,
            watch=lambda scenes, kind=kind: drawing.watched(scenes, images, kind, show=show),
        )
        for kind in KINDS
    }
    seconds = round(time.perf_counter() - started, 3)
    if as_json:
        facts = {
            "images": images,
            "seed": seed,
            "lattice": lattice,
            "model": pipe.name,
            "mode": str(pipe.mode),
        }
        print(json.dumps({"kinds": found, "seconds": seconds, **facts}))
        return
    width = max(map(len, found))
    print(" " * width + "".join(f"  {f'{ratio:.0%} hidden':>16}" for ratio in MASK_RATIOS))
    for kind, by_ratio in found.items():
        cells = (
            f"{by_ratio[ratio]['nats']:.2f} nats, {by_ratio[ratio]['right']:.2f}" for ratio in MASK_RATIOS
        )
        print(f"{kind:>{width}}" + "".join(f"  {cell:>16}" for cell in cells))
