"""The suite `distance`: the Fréchet distance of a model's images from scenes that training never shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from smalti.common.checks import check_whole
from smalti.errors import SmaltiError
from smalti.evaluation.folder import as_rgb, check_text
from smalti.evaluation.frechet import Gaussian, fit, frechet_distance
from smalti.evaluation.lattice import lattice_places
from smalti.evaluation.request import Request
from smalti.evaluation.subject import Subject
from smalti.evaluation.suite import Suite
from smalti.evaluation.suites.scenes.features import SceneClassifier, features, load_classifier
from smalti.worlds.scenes import world

_BATCH = 16
_LABELS = {
    "distance": "the model's images",
    "floor": "real scenes in their place",
    "tokenizer": "real scenes after the image tokenizer",
}


class DistanceRow(NamedTuple):
    """Features of the images of a caption, and of the scene that the caption describes.

    Attributes:
        prompt: caption, number and seed of the scene.
        size: (height, width) of the images in pixels.
        images: features of the images, (n, D) float32.
        scene: features of the scene, (1, D) float32.
    """

    prompt: dict[str, Any]
    size: tuple[int, int]
    images: torch.Tensor
    scene: torch.Tensor


@dataclass(frozen=True)
class Distance(Suite):
    """Measure the Fréchet distance (as in FID) of images from unseen scenes, on features of a small classifier.

    The prompts are captions of unseen scenes. Two more distances from the same reference scenes give a scale. "floor"
    is the distance of the scenes that the captions describe. A perfect model reaches it; it is above 0 because the sets
    are finite. "tokenizer" is the distance of the same scenes after the image tokenizer, the best result of any model
    with this tokenizer. Distances can be compared only at the same number of images, reference scenes and lattice.

    Attributes:
        scenes: number of reference scenes.
        lattice: number of positions a side at which boxes are placed; 0 means any position.
    """

    scenes: int = 2000
    lattice: int = 8
    model: ClassVar[str | None] = "scenes"
    controls: ClassVar[frozenset[str]] = frozenset({"folder", "ground_truth", "tokenized", "save"})
    count: ClassVar[int] = 500
    least: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_whole("scenes", self.scenes, 2)
        lattice_places(self.lattice)

    def prompts(self, count: int, seed: int) -> list[dict[str, Any]]:
        """Return the captions of the first unseen scenes of a seed."""
        unseen = self._world(seed)
        return [
            {"prompt": unseen.scene(index).caption, "scene": index, "seed": seed} for index in range(count)
        ]

    def check_prompt(self, prompt: Any) -> None:
        """Raise SmaltiError unless metadata names a scene and its seed."""
        check_text(prompt)
        for name in ("scene", "seed"):
            check_whole(name, prompt.get(name), 0)

    def ground_truth(
        self, prompts: Sequence[dict[str, Any]], request: Request, size: tuple[int, int]
    ) -> Iterator[list[np.ndarray]]:
        """Yield the scenes that the captions describe."""
        for prompt in prompts:
            yield [self._scene(prompt, size).permute(1, 2, 0).numpy()]

    def score(self, prompt: dict[str, Any], sample: Any) -> DistanceRow:
        """Return features of the images of a caption, and of the scene that it describes."""
        images = [torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1) for image in sample]
        height, width = images[0].shape[-2:]
        if any(image.shape != images[0].shape for image in images):
            raise SmaltiError("sample must be images of the same size", argument="sample")
        drawn = features(_classifier(), [torch.stack(images)])
        scene = features(_classifier(), [self._scene(prompt, (height, width))[None]])
        return DistanceRow(prompt, (height, width), drawn, scene)

    def summarize(self, rows: Sequence[DistanceRow]) -> dict[str, Any]:
        """Return the distances of the images and of the scenes that their captions describe."""
        reference = self._reference([row.prompt for row in rows], rows[0].size)
        return {
            "distance": _distance(torch.cat([row.images for row in rows]), reference),
            "floor": _distance(torch.cat([row.scene for row in rows]), reference),
        }

    def model_scores(self, subject: Subject, prompts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the distance of the scenes after the model's image tokenizer."""
        scenes = self.ground_truth(prompts, Request(), subject.size)
        after = (torch.from_numpy(subject.round_trip(images[0])).permute(2, 0, 1) for images in scenes)
        found = features(_classifier(), _batches(after))
        return {"tokenizer": _distance(found, self._reference(prompts, subject.size))}

    def table(self, scores: dict[str, Any]) -> str:
        """Return a line for each distance, with the set that it belongs to."""
        return "\n".join(
            f"{name:>14}  {value:<10} {_LABELS.get(name, '')}".rstrip() for name, value in scores.items()
        )

    def _world(self, seed: int, size: tuple[int, int] = (256, 256)) -> world.Scenes:
        """Return the unseen scenes of a seed."""
        return world.Scenes(seed=seed, size=size, split="test", lattice=lattice_places(self.lattice))

    def _scene(self, prompt: dict[str, Any], size: tuple[int, int]) -> torch.Tensor:
        """Return the scene that a caption describes, (3, H, W) uint8."""
        return self._world(prompt["seed"], size)[prompt["scene"]]["image"]

    def _reference(self, prompts: Sequence[dict[str, Any]], size: tuple[int, int]) -> Gaussian:
        """Return the Gaussian of the reference scenes, which follow those of the captions."""
        first = 1 + max(prompt["scene"] for prompt in prompts)
        return _fit_scenes(prompts[0]["seed"], size, lattice_places(self.lattice), first, self.scenes)


@cache
def _classifier() -> SceneClassifier:
    """Return the trained classifier."""
    return load_classifier()


@cache
def _fit_scenes(seed: int, size: tuple[int, int], lattice: int | None, first: int, count: int) -> Gaussian:
    """Return the Gaussian of `count` unseen scenes from number `first`."""
    unseen = world.Scenes(seed=seed, size=size, split="test", lattice=lattice)
    images = (unseen[index]["image"] for index in range(first, first + count))
    return fit(features(_classifier(), _batches(images)))


def _distance(found: torch.Tensor, reference: Gaussian) -> float:
    """Return the distance of features, (N, D), from a reference."""
    return round(frechet_distance(fit(found), reference), 4)


def _batches(images: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield batches, (B, 3, H, W) uint8, of images, (3, H, W) uint8."""
    rest = iter(images)
    while group := list(islice(rest, _BATCH)):
        yield torch.stack(group)
