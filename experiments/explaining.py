"""Measure what `smalti explain` says of scenes: where nouns have their peak, and what synonyms say twice.

python experiments/explaining.py [peaks] [redundancy] [--model FOLDER] [--scenes 60] [--output runs/explaining]

The task peaks asks for the noun of each of two objects. A peak is inside if the largest value of the map over pixels is
in the object. The token that the noun says most about is measured, too: whether it shows a part of the object at all.

The task redundancy writes a word of a scene's caption twice, in one of the wordings of training: "above over" or "under
below", and as a reference the colour or the noun itself again. Unrelated pairs are three of
the pairs of other words, nouns, colours and one relation, in the same caption.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import torch
from reading_scenes import marked

import smalti
from smalti.common.files import read_json, write_json_atomic
from smalti.errors import SmaltiError
from smalti.pipeline import Pipeline
from smalti.reading.information import explain
from smalti.reading.regions import scaled, sharpened
from smalti.worlds.scenes.palette import COLORS
from smalti.worlds.scenes.scene import compose, render
from smalti.worlds.scenes.shapes import SHAPES

LATTICE = 8
SYNONYMS = {"above": ("above", "over"), "below": ("below", "under")}


def peaks(pipe: Pipeline, options: argparse.Namespace) -> dict[str, float]:
    """Return how often the map of a noun has its peak inside its object."""
    rows, seconds = [], []
    for index in range(options.scenes):
        asked = marked(index, seed=options.seed, lattice=LATTICE, size=pipe.settings.height)
        pixels = torch.from_numpy(render(asked.scene, pipe.settings.height)).permute(2, 0, 1)
        nouns = [item.shape for item in asked.scene.objects]
        started = time.process_time()
        tokens = pipe.components.encode(pixels[None])[0]
        found = explain(pipe.components, tokens, asked.scene.caption, words=nouns, masks=options.masks)
        seconds.append(time.process_time() - started)
        side = pipe.settings.height // len(tokens)
        for word, mask in zip(found.words, asked.masks, strict=True):
            row, column = (side * place for place in word.peak)
            touches = bool(mask[row : row + side, column : column + side].any())
            fine = sharpened(scaled(word.values), pixels)
            rows.append((index, touches, bool(mask.flat[int(fine.argmax())])))
    table = np.array(rows, dtype=float)
    scenes = table.reshape(options.scenes, -1, 3)
    return {
        "scenes": options.scenes,
        "token_touches": round(float(table[:, 1].mean()), 4),
        "peak_inside": round(float(table[:, 2].mean()), 4),
        "both_touch": round(float(scenes[..., 1].all(1).mean()), 4),
        "both_inside": round(float(scenes[..., 2].all(1).mean()), 4),
        "seconds": round(float(np.median(seconds)), 3),
    }


def redundancy(pipe: Pipeline, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the redundant nats and the overlap of pairs of words, the means over scenes, by kind of pair."""
    found: dict[str, list[tuple[float, float]]] = {}
    for index in range(options.scenes):
        random = Random(f"smalti redundancy {options.seed} {index}")
        relation = random.choice(list(SYNONYMS))
        nouns, colors = random.sample(list(SHAPES), 2), random.sample(list(COLORS), 2)
        include = [
            {"class": noun, "count": 1, "color": color} for noun, color in zip(nouns, colors, strict=True)
        ]
        include[1]["position"] = [relation, 0]
        # GenEval's relation places the second object; the caption names it first.
        words = {"relation": relation, "color": colors[1], "noun": nouns[1]}
        scene = compose({"tag": "position", "include": include, "prompt": "-"}, random, lattice=LATTICE)
        pixels = torch.from_numpy(render(scene, pipe.settings.height)).permute(2, 0, 1)
        tokens = pipe.components.encode(pixels[None])[0]
        for kind in ("synonyms", "color twice", "noun twice"):
            said = dict(words)
            if kind == "synonyms":
                said["relation"] = " ".join(random.sample(SYNONYMS[relation], 2))
                pair = tuple(said["relation"].split())
            else:
                key = kind.split()[0]
                said[key] = f"{words[key]} {words[key]}"
                pair = (words[key], words[key])
            prompt = f"a {said['color']} {said['noun']} {said['relation']} a {colors[0]} {nouns[0]}"
            pairs = [pair]
            if kind == "synonyms":
                others = list(combinations([pair[0], *colors, *nouns], 2))
                pairs += random.sample(others, 3)
            parts = explain(pipe.components, tokens, prompt, words=[], pairs=pairs, masks=options.masks).pairs
            for number, part in enumerate(parts):
                name = kind if number == 0 else _kind(pairs[number], colors, nouns)
                found.setdefault(name, []).append((float(part.redundant.sum()), part.overlap))
                if number:
                    found.setdefault("unrelated", []).append(found[name][-1])
    return {
        name: {
            "pairs": len(values),
            "redundant": round(float(np.mean([nats for nats, _ in values])), 2),
            "overlap": round(float(np.mean([share for _, share in values])), 4),
        }
        for name, values in found.items()
    }


def _kind(pair: tuple[str, ...], colors: list[str], nouns: list[str]) -> str:
    """Return the name of a kind of unrelated words, such as "color, noun of one object"."""
    kinds = ["color" if word in colors else "noun" if word in nouns else "relation" for word in pair]
    numbers = {(colors if word in colors else nouns).index(word) for word in pair if word in colors + nouns}
    if "relation" in kinds:
        return f"{' and '.join(sorted(kinds))}"
    return f"{' and '.join(sorted(kinds))} of {'one object' if len(numbers) == 1 else 'two objects'}"


TASKS = {"peaks": peaks, "redundancy": redundancy}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+", choices=TASKS, help="what to measure")
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--scenes", type=int, default=60, help="number of scenes of each task")
    parser.add_argument("--masks", type=int, default=8, help="masks a text")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.add_argument("--output", type=Path, default=Path("runs/explaining"), help="folder of the results")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    pipe = smalti.load(options.model, device=options.device)
    place = options.output / "results.json"
    scores = read_json(place) if place.exists() else {}
    for task in options.tasks:
        scores[task] = TASKS[task](pipe, options)
        write_json_atomic(place, scores)
        print(json.dumps({task: scores[task]}, indent=1), flush=True)


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as fault:
        sys.exit(f"experiment: {fault}")
