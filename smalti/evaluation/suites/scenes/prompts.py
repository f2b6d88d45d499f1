"""Prompts over scenes in the format of GenEval's `evaluation_metadata.jsonl`, and pictures that satisfy them.

A prompt is a dict with GenEval's keys `tag`, `include`, `exclude` (counting only) and `prompt`, and one of
ours: `held_out`, true where the prompt asks for a shape in a colour that no training scene shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import cycle, islice, permutations, product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from smalti.common.files import write_text_atomic
from smalti.errors import SmaltiError
from smalti.worlds.scenes.captions import geneval_prompt
from smalti.worlds.scenes.layout import RELATIONS
from smalti.worlds.scenes.palette import COLORS
from smalti.worlds.scenes.scene import HELD_OUT, compose, render
from smalti.worlds.scenes.shapes import SHAPES

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

PAIR_TAGS = ("colors", "color_attr")
"""The tasks whose prompts say the colour of every object."""

HELD_OUT_SHARE = 0.2
"""Share of the prompts of these that ask for a held-out pair."""

Prompt = dict[str, Any]


def scene_prompts(per_tag: int = 50, seed: int = 0) -> list[Prompt]:
    """`per_tag` prompts of each of GenEval's six tasks, worded "a photo of ...", in the order of `TAGS`.

    No prompt comes twice before all others of its kind have come (there are 10 of `single_object`, 30 of
    `counting`). The same arguments always give the same prompts.

    Raises:
        SmaltiError: `per_tag` is not a positive whole number.
    """
    if not isinstance(per_tag, int) or isinstance(per_tag, bool) or per_tag < 1:
        raise SmaltiError(f"per_tag must be a positive whole number, not {per_tag!r}")
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
    prompts: Iterable[Prompt], *, size: int = 256, seed: int = 0, lattice: int | None = None
) -> Iterator[np.ndarray]:
    """A drawn picture, uint8 (size, size, 3), that satisfies each prompt: what a perfect model would make.

    `lattice` is explained at `smalti.worlds.scenes.world.Scenes`.
    """
    for index, prompt in enumerate(prompts):
        yield render(compose(prompt, Random(f"smalti ground truth {seed} {index}"), lattice=lattice), size)


def shuffle(prompts: list[Prompt], seed: int = 0) -> list[Prompt]:
    """The same prompts in another order, none in its old place: each then has a wrong picture.

    Raises:
        SmaltiError: there are fewer than two.
    """
    if len(prompts) < 2:
        raise SmaltiError(f"shuffling needs at least 2 prompts, not {len(prompts)}")
    random, order = Random(f"smalti shuffle {seed}"), list(range(len(prompts)))
    # Sattolo's algorithm: a random permutation that is one cycle, so nothing stays where it was.
    for last in range(len(order) - 1, 0, -1):
        other = random.randrange(last)
        order[last], order[other] = order[other], order[last]
    return [prompts[index] for index in order]


def write_prompts(path: str | Path, prompts: Iterable[Prompt]) -> None:
    """Write prompts as JSON lines, GenEval's `evaluation_metadata.jsonl`."""
    write_text_atomic(path, "".join(json.dumps(prompt) + "\n" for prompt in prompts))


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read and check prompts from JSON lines.

    Raises:
        SmaltiError: the file is missing or empty, or a line (named by its number) is not such a prompt.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SmaltiError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                prompt = json.loads(line)
            except json.JSONDecodeError as error:
                raise SmaltiError(f"{path} line {number} is not JSON: {error}") from error
            try:
                check_prompt(prompt)
            except SmaltiError as error:
                raise SmaltiError(f"{path} line {number}: {error}") from error
            prompts.append(prompt)
    if not prompts:
        raise SmaltiError(f"{path} holds no prompts")
    return prompts


def check_prompt(prompt: Any) -> None:
    """Raise a `SmaltiError` that names what is wrong with a prompt, if anything is."""
    if not isinstance(prompt, dict):
        raise SmaltiError(f"a prompt must be a JSON object, not {type(prompt).__name__}")
    if prompt.get("tag") not in TAGS:
        raise SmaltiError(f"tag must be one of {list(TAGS)}, not {prompt.get('tag')!r}")
    if not isinstance(prompt.get("prompt"), str):
        raise SmaltiError(f"prompt must be text, not {prompt.get('prompt')!r}")
    include, exclude = prompt.get("include"), prompt.get("exclude", [])
    if not isinstance(include, list) or not include or not isinstance(exclude, list):
        raise SmaltiError("include must be a list of at least one object, and exclude, if given, a list")
    for index, entry in enumerate([*include, *exclude]):
        if not isinstance(entry, dict) or entry.get("class") not in SHAPES:
            raise SmaltiError(f"class must be one of {list(SHAPES)}, not {entry!r}")
        if not isinstance(entry.get("count"), int) or entry["count"] < 1:
            raise SmaltiError(f"count must be a positive whole number, not {entry.get('count')!r}")
        if entry.get("color", "red") not in COLORS:
            raise SmaltiError(f"color must be one of {list(COLORS)}, not {entry['color']!r}")
        position = entry.get("position", ["above", 0])
        known = isinstance(position, list) and len(position) == 2 and position[0] in RELATIONS
        if not known or ("position" in entry and position[1] not in range(min(index, len(include)))):
            raise SmaltiError(
                f"position must be [relation, index of an earlier object] with one of {list(RELATIONS)}, "
                f"not {position!r}"
            )


def _draw(tag: str, count: int, random: Random) -> list[list[dict[str, Any]]]:
    """`count` different `include` lists of a task."""
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
    return {"class": pair[0], "count": 1, "color": pair[1]}


def _is_held_out(include: list[dict[str, Any]]) -> bool:
    return any((entry["class"], entry.get("color")) in HELD_OUT for entry in include)
