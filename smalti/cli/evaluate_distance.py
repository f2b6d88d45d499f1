"""`smalti evaluate distance`: how far a model's pictures are, as a set, from scenes that it has not seen."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli import drawing, options, output
from smalti.common.checks import check_whole

if TYPE_CHECKING:
    import torch

    from smalti.worlds.scenes.world import Scenes

_LABELS = {
    "distance": "the model's pictures",
    "floor": "real scenes, in their place",
    "tokenizer": "these, through the image tokenizer",
}


@drawing.with_drawing_options
def distance(
    context: typer.Context,
    images: Annotated[
        int, typer.Option(metavar="K", help="Pictures that are drawn, from the captions of unseen scenes.")
    ] = 500,
    scenes: Annotated[
        int, typer.Option(metavar="N", help="Other unseen scenes that they are compared with.")
    ] = 2000,
    seed: Annotated[
        int, typer.Option(metavar="SEED", help="Which scenes, and the first picture's seed.")
    ] = 0,
    lattice: options.Lattice = 8,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Pictures drawn at a time. It changes memory, not the pictures.")
    ] = 16,
    as_json: options.Json = False,
) -> None:
    """The Fréchet distance (as in FID) of drawn pictures from unseen scenes, on features of a small classifier.

    Two more distances from the same scenes say what it means. The floor is that of the real scenes whose captions were
    the prompts: what a perfect model has, more than 0 because the sets are finite. The other is that of these scenes
    after the image tokenizer, there and back: what a model with this tokenizer can have at best. Only numbers with the
    same K, N and lattice can be compared; the lattice should be the one that the model was trained on.

    Example: smalti evaluate distance --steps 16 --images 500
    """
    started = time.perf_counter()
    for name, value, least in (
        ("--images", images, 2),
        ("--scenes", scenes, 2),
        ("--batch-size", batch_size, 1),
    ):
        check_whole(name, value, least)
    check_whole("--seed", seed, 0)
    place = options.check_lattice(lattice)
    pipe, settings = drawing.load_for(context.params)
    from smalti.evaluation.frechet import fit, frechet_distance
    from smalti.evaluation.suites.scenes.features import features, load_classifier
    from smalti.worlds.scenes.world import Scenes

    unseen = Scenes(seed=seed, size=(settings.height, settings.width), split="test", lattice=place)
    captions = [unseen.scene(index).caption for index in range(images)]
    passes: list[int] = []
    drawn = drawing.draw(pipe, settings, captions, seed=seed, batch_size=batch_size, passes=passes)
    drawn = drawing.watched(drawn, images, "drawing", show=output.shows_progress(as_json))
    classifier = load_classifier()
    sets = {
        "distance": _batches(map(_from_pil, drawn), batch_size),
        "floor": _batches(_pixels(unseen, 0, images), batch_size),
        "tokenizer": drawing.through_tokenizer(pipe, _batches(_pixels(unseen, 0, images), batch_size)),
        "others": _batches(_pixels(unseen, images, scenes), batch_size),
    }
    fitted = {name: fit(features(classifier, batches)) for name, batches in sets.items()}
    others = fitted.pop("others")
    found = {name: round(frechet_distance(one, others), 4) for name, one in fitted.items()}
    seconds = round(time.perf_counter() - started, 3)
    if as_json:
        counts = {"images": images, "scenes": scenes, "lattice": lattice, "seed": seed, "seconds": seconds}
        mean_passes = round(sum(passes) / len(passes), 3)
        print(json.dumps({**found, **counts, **drawing.facts(pipe, settings), "passes": mean_passes}))
        return
    for name, value in found.items():
        print(f"{name:>14}  {value:<10} {_LABELS[name]}")
    print(f"{'seconds':>14}  {seconds}")


def _pixels(source: Scenes, first: int, count: int) -> Iterator[torch.Tensor]:
    """Scenes number `first` and on, each (3, H, W) uint8."""
    return (source[index]["image"] for index in range(first, first + count))


def _from_pil(picture: Any) -> torch.Tensor:
    """(3, H, W) uint8."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _batches(pictures: Iterator[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """(B, 3, H, W) uint8, `size` pictures at a time."""
    import torch

    while group := list(islice(pictures, size)):
        yield torch.stack(group)
