"""Prompts over scenes in the format of GenEval's `evaluation_metadata.jsonl`, and renderings that satisfy them.

A prompt is a dict with GenEval's keys `tag`, `include`, `exclude` (counting only) and `prompt`. Smalti adds `held_out`:
whether the prompt asks for a held-out pair, a shape in a colour that no training scene shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle, islice, permutations, product
from random import Random
from typing import Any

import numpy as np

from smalti.common.checks import check_whole
from smalti.evaluation import geneval
from smalti.evaluation.geneval import PAIR_TAGS, Prompt
from smalti.worlds.layout import RELATIONS
from smalti.worlds.scenes.captions import geneval_prompt
from smalti.worlds.scenes.palette import COLORS
from smalti.worlds.scenes.scene import HELD_OUT, compose, render
from smalti.worlds.scenes.shapes import SHAPES
from smalti.worlds.tasks import TAGS

HELD_OUT_SHARE = 0.2
"""Fraction of the prompts of these tasks that ask for a held-out pair."""


def scene_prompts(per_tag: int = 50, seed: int = 0) -> list[Prompt]:
    """Return prompts of GenEval's six tasks, worded "a photo of ...", in the order of `TAGS`.

    A prompt repeats only after all others of its task: `single_object` has 10, `counting` 30. The same arguments always
    give the same prompts.

    Args:
        per_tag: number of prompts of each task.
        seed: seed of the prompts.

    Raises:
        SmaltiError: `per_tag` is not a positive whole number.

    Example:
        >>> scene_prompts(1)[0]["prompt"]
        'a photo of a heart'
    """
    check_whole("per_tag", per_tag)
    prompts = []
    for tag in TAGS:
        random = Random(f"smalti prompts {seed} {tag}")
        for include in _draw(tag, per_tag, random):
            prompt: Prompt = {"tag": tag, "include": include}
            if tag == "counting":
                prompt["exclude"] = [{"class": include[0]["class"], "count": include[0]["count"] + 1}]
            prompts.append({**prompt, "prompt": geneval_prompt(prompt), "held_out": _is_held_out(include)})
    return prompts


def ground_truth(
    prompts: Iterable[Prompt],
    *,
    size: int | tuple[int, int] = 256,
    seed: int = 0,
    lattice: int | None = None,
) -> Iterator[np.ndarray]:
    """Yield a rendering, (H, W, 3) uint8, that satisfies each prompt, as an image of a perfect model would.

    Args:
        prompts: prompts over scenes.
        size: side in pixels, or (height, width).
        seed: seed of the scenes.
        lattice: lattice of the scenes, as in `smalti.worlds.scenes.world.Scenes`.
    """
    for index, prompt in enumerate(prompts):
        yield render(compose(prompt, Random(f"smalti ground truth {seed} {index}"), lattice=lattice), size)


def check_prompt(prompt: Any) -> None:
    """Raise SmaltiError, which names the fault, unless a prompt is one over scenes."""
    geneval.check_prompt(prompt, SHAPES, COLORS)


def _draw(tag: str, count: int, random: Random) -> list[list[dict[str, Any]]]:
    """Return `count` lists `include` of a task, different as far as there are enough."""
    pairs = list(product(SHAPES, COLORS))
    if tag == "single_object":
        options = [[{"class": shape, "count": 1}] for shape in SHAPES]
    elif tag == "counting":
        options = [[{"class": shape, "count": number}] for shape in SHAPES for number in (2, 3, 4)]
    elif tag == "two_object":
        options = [[{"class": shape, "count": 1} for shape in shapes] for shapes in permutations(SHAPES, 2)]
    elif tag == "position":
        options = [
            [{"class": reference, "count": 1}, {"class": related, "count": 1, "position": [relation, 0]}]
            for reference, related in permutations(SHAPES, 2)
            for relation in RELATIONS
        ]
    elif tag == "colors":
        options = [[_colored(pair)] for pair in pairs]
    else:
        options = [
            [_colored(first), _colored(second)]
            for first, second in permutations(pairs, 2)
            if first[0] != second[0] and first[1] != second[1]
        ]
    random.shuffle(options)
    if tag not in PAIR_TAGS:
        return list(islice(cycle(options), count))
    unseen = [include for include in options if _is_held_out(include)]
    seen = [include for include in options if not _is_held_out(include)]
    held_out = round(count * HELD_OUT_SHARE)
    drawn = list(islice(cycle(unseen), held_out)) + list(islice(cycle(seen), count - held_out))
    random.shuffle(drawn)
    return drawn


def _colored(pair: tuple[str, str]) -> dict[str, Any]:
    """Return the entry of `include` for one object of a shape and a colour."""
    return {"class": pair[0], "count": 1, "color": pair[1]}


def _is_held_out(include: list[dict[str, Any]]) -> bool:
    """Return whether an object is a held-out pair."""
    return any((entry["class"], entry.get("color")) in HELD_OUT for entry in include)
