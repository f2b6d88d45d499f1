"""Contrast: log-likelihoods of a scene under its own prompt and under a similar one.

The other prompt has one change, such as two colours swapped. A model that does not understand the words gives both the
same likelihood. Nothing is sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import torch

from smalti.common.checks import check_choice, check_whole
from smalti.common.randomness import generator
from smalti.components import Components
from smalti.reading.likelihood import log_probabilities
from smalti.worlds.scenes.captions import geneval_prompt
from smalti.worlds.scenes.palette import COLORS
from smalti.worlds.scenes.scene import HELD_OUT, Scene, compose, render
from smalti.worlds.scenes.shapes import SHAPES
from smalti.worlds.scenes.world import sample_metadata

MASK_RATIOS = (1.0, 0.98, 0.95, 0.9, 0.8)
"""Fractions of the tokens that are masked. The prompt matters most when nearly all are."""

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
Metadata = dict[str, Any]


class ContrastPair(NamedTuple):
    """A scene with two prompts.

    Attributes:
        scene: the scene.
        prompt: prompt that describes the scene.
        other: prompt with one change.
    """

    scene: Scene
    prompt: str
    other: str


def _shape(include: list[Metadata], random: Random) -> None:
    include[0]["class"] = random.choice([name for name in SHAPES if name != include[0]["class"]])


def _color(include: list[Metadata], random: Random) -> None:
    include[0]["color"] = random.choice([name for name in COLORS if name != include[0]["color"]])


def _count(include: list[Metadata], random: Random) -> None:
    include[0]["count"] = random.choice([count for count in (2, 3, 4) if count != include[0]["count"]])


def _relation(include: list[Metadata], random: Random) -> None:
    include[1]["position"][0] = _OPPOSITE[include[1]["position"][0]]


def _swapped_colors(include: list[Metadata], random: Random) -> None:
    include[0]["color"], include[1]["color"] = include[1]["color"], include[0]["color"]


KINDS: dict[str, tuple[str, Callable[[list[Metadata], Random], None]]] = {
    "shape": ("single_object", _shape),
    "color": ("colors", _color),
    "count": ("counting", _count),
    "relation": ("position", _relation),
    "swapped_colors": ("color_attr", _swapped_colors),
    "swapped_colors_held_out": ("color_attr", _swapped_colors),
}
"""Kinds of contrast by name: GenEval's task of the scene, and a function that changes the metadata of its prompt.

The change is another shape, colour or number, the opposite relation, or the colours of two objects swapped. Scenes of
the last kind have a held-out pair of shape and colour.
"""


def contrasts(kind: str, count: int, *, seed: int = 0, lattice: int | None = 8) -> Iterator[ContrastPair]:
    """Yield `count` pairs of a kind; pair i depends on the kind, the seed, the lattice and i alone.

    Raises:
        SmaltiError: there is no such kind, or `count` is not a positive whole number.
    """
    check_choice("kind", kind, tuple(KINDS))
    check_whole("count", count)
    tag, change = KINDS[kind]
    for index in range(count):
        random = Random(f"smalti contrasts {seed} {kind} {index}")
        metadata = sample_metadata(tag, random, "train")
        if kind.endswith("held_out"):
            metadata["include"][0]["class"], metadata["include"][0]["color"] = _held_out(metadata, random)
        prompt = geneval_prompt(metadata)
        scene = compose({**metadata, "prompt": prompt}, random, split="train", lattice=lattice)
        other = copy.deepcopy(metadata)
        change(other["include"], random)
        yield ContrastPair(scene, prompt, geneval_prompt(other))


def _held_out(metadata: Metadata, random: Random) -> tuple[str, str]:
    """Choose a held-out pair whose shape and colour differ from the second object's."""
    second = metadata["include"][1]
    free = [pair for pair in sorted(HELD_OUT) if pair[0] != second["class"] and pair[1] != second["color"]]
    return random.choice(free)


def measure_contrasts(
    components: Components,
    kind: str,
    count: int = 96,
    *,
    seed: int = 0,
    lattice: int | None = 8,
    size: int = 256,
    mask_ratios: Sequence[float] = MASK_RATIOS,
) -> dict[float, dict[str, float]]:
    """Measure how well a model tells the prompts of a kind apart.

    Args:
        components: the model.
        kind: key of `KINDS`.
        count: number of scenes.
        seed: seed of the scenes and of the masks.
        lattice: positions a side at which objects are placed; None means any position.
        size: side of the scenes in pixels.
        mask_ratios: fractions of the tokens to mask.

    Returns:
        The scores by mask ratio, as from `summarize_contrasts`.
    """
    pairs = contrasts(kind, count, seed=seed, lattice=lattice)
    drops = likelihood_drops(components, pairs, seed=seed, size=size, mask_ratios=mask_ratios)
    return summarize_contrasts(list(drops), mask_ratios)


def likelihood_drops(
    components: Components,
    pairs: Iterable[ContrastPair],
    *,
    seed: int = 0,
    size: int = 256,
    mask_ratios: Sequence[float] = MASK_RATIOS,
) -> Iterator[torch.Tensor]:
    """Yield the drop of the log-likelihood of each scene's masked tokens under the other prompt.

    Args:
        components: the model.
        pairs: scenes with two prompts each.
        seed: seed of the masks.
        size: side of the scenes in pixels.
        mask_ratios: fractions of the tokens to mask.

    Yields:
        The sum of the drops over the masked tokens in nats, (mask ratios,) float.
    """
    side = components.image_tokenizer.config.downscale
    grid = (size // side, size // side)
    places = generator(seed)
    for pair in pairs:
        pixels = torch.from_numpy(render(pair.scene, size)).permute(2, 0, 1)[None]
        tokens = components.encode(pixels)[0]
        rank = torch.rand(grid[0] * grid[1], generator=places).argsort().argsort().view(grid)
        masked = torch.stack([rank < max(1, round(ratio * rank.numel())) for ratio in mask_ratios])
        own, other = (
            log_probabilities(
                components.denoiser,
                components.prompts([text], size, size),
                tokens,
                masked,
                at_once=len(masked),
            ).sum(dim=(1, 2))
            for text in (pair.prompt, pair.other)
        )
        yield own - other


def summarize_contrasts(
    drops: Sequence[torch.Tensor], mask_ratios: Sequence[float] = MASK_RATIOS
) -> dict[float, dict[str, float]]:
    """Return the scores of many scenes from `likelihood_drops`.

    Returns:
        By mask ratio: `nats`, the mean drop in nats; `error`, its standard error; `right`, the fraction of scenes with
        a drop, 0.5 by chance.
    """
    found = torch.stack(list(drops)).cpu().double()
    right = (found > 0).double() + (found == 0).double() / 2
    return {
        ratio: {
            "nats": round(float(found[:, column].mean()), 3),
            "error": round(float(found[:, column].std(correction=0)) / len(found) ** 0.5, 3),
            "right": round(float(right[:, column].mean()), 4),
        }
        for column, ratio in enumerate(mask_ratios)
    }
