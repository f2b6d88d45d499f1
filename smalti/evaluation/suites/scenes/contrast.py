"""Whether a model tells prompts apart: log-likelihoods of a scene under its own prompt and under a similar one.

The other prompt differs in one thing, such as two colours that are swapped. A model that has not understood the words
gives both the same likelihood. Nothing is sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import torch

from smalti.common.checks import check_choice, check_whole
from smalti.components import Components
from smalti.reading.likelihood import log_probabilities
from smalti.worlds.scenes.captions import geneval_prompt
from smalti.worlds.scenes.palette import COLORS
from smalti.worlds.scenes.scene import HELD_OUT, Scene, compose, render
from smalti.worlds.scenes.shapes import SHAPES
from smalti.worlds.scenes.world import sample_metadata

MASK_RATIOS = (1.0, 0.98, 0.95, 0.9, 0.8)
"""Fractions of the tokens that are masked. The prompt matters where nearly all are."""

_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
Metadata = dict[str, Any]


class ContrastPair(NamedTuple):
    """A scene with its own prompt and one that does not fit."""

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
"""The kind of scene, and what is changed in its prompt: another shape, another colour, another number, left for right
or above for below, the colours of two objects swapped; the same where one pair is one that training never shows."""


def contrasts(kind: str, count: int, *, seed: int = 0, lattice: int | None = 8) -> Iterator[ContrastPair]:
    """Yield `count` scenes of a kind; scene i depends on the kind, the seed, the lattice and i alone.

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
    """Return a pair that training never shows, of another shape and another colour than the second object's."""
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
        kind, count, seed, lattice: as for `contrasts`.
        size: side of the scenes in pixels.
        mask_ratios: fractions of the tokens that are masked.

    Returns:
        The same as `summarize_contrasts`, by mask ratio.
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
    """Yield how much the log-likelihood of each scene's masked tokens is lower under the other prompt.

    Args:
        seed: which tokens are masked.

    Returns:
        (mask ratios,) float in nats for each pair, the sum over the masked tokens.
    """
    side = components.image_tokenizer.config.downscale
    grid = (size // side, size // side)
    places = torch.Generator().manual_seed(seed)
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
        By mask ratio: `nats`, the mean drop; `error`, the standard error of that mean; `right`, the fraction of scenes
        whose likelihood is lower under the other prompt, 0.5 by chance.
    """
    found = torch.stack(list(drops)).double()
    right = (found > 0).double() + (found == 0).double() / 2
    return {
        ratio: {
            "nats": round(float(found[:, column].mean()), 3),
            "error": round(float(found[:, column].std(correction=0)) / len(found) ** 0.5, 3),
            "right": round(float(right[:, column].mean()), 4),
        }
        for column, ratio in enumerate(mask_ratios)
    }
