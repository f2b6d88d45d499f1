"""Analyse wrong images: how they are wrong, and whether token editing could repair them.

python experiments/mistakes.py [--model FOLDER] [--steps 16] [--seeds 0 1 2] [--images 240] [--again 8] [--json]

Images have the prompts and the seeds of `experiments/steps.py`. The first part draws them with the model's own editing
and without it. It counts how many are wrong, of which kind, and how many are wrong both times.

The second part takes the images drawn without editing. It masks all tokens of one detected object and fills them again
in more steps (`--again`), four times. It does so for every object of every wrong image, and once for all tokens outside
of the detected objects, where an object too ragged to detect may be. The share of images that are correct afterwards
with the best of these choices bounds what any rule could reach that remasks an object. The same for every sixteenth
correct image shows how many images such a rule would spoil.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import Counter
from typing import Any

import numpy as np
import torch

import smalti
from smalti.errors import SmaltiError
from smalti.evaluation.geneval import Detection, Prompt, is_correct
from smalti.evaluation.suites.scenes.detector import detect
from smalti.evaluation.suites.scenes.prompts import scene_prompts
from smalti.generation.build import make_sampler
from smalti.generation.settings import GenerationSettings
from smalti.pipeline import Pipeline
from smalti.sampling.sampler import sample
from smalti.worlds.tasks import TAGS

_BATCH = 16
_TRIES = 4
_CORRECT_ONES = 16  # one of so many correct images is tried
_COVERED = 0.35  # least share of a token's height and of its width that an object covers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--dtype", help="dtype of the denoiser; by default float32 on a CPU")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--steps", type=int, default=16, help="number of steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of prompts and images")
    parser.add_argument(
        "--images", type=int, default=240, help="images for each seed, over GenEval's six tasks"
    )
    parser.add_argument("--again", type=int, default=8, help="steps that fill masked tokens again")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    pipe = smalti.load(options.model, device=options.device, dtype=options.dtype)
    report = measure(pipe, options)
    if options.json:
        print(json.dumps(report))
        return
    for key, value in report.items():
        print(f"{key}: {value}")


def measure(pipe: Pipeline, options: argparse.Namespace) -> dict[str, Any]:
    """Count mistakes, and try to repair them."""
    edited = pipe.settings.replaced(num_inference_steps=options.steps)
    plain = edited.replaced(revision="none")
    again = plain.replaced(num_inference_steps=options.again)
    kinds: dict[str, Counter[str]] = {"without editing": Counter(), "with editing": Counter()}
    both = images = correct = 0
    # How often a wrong image is correct afterwards, object by object, last with all else; the same of correct images.
    repaired: list[list[float]] = []
    kept: list[list[float]] = []
    for seed in options.seeds:
        prompts = scene_prompts(options.images // len(TAGS), seed)
        images += len(prompts)
        with_editing = [found for _, found in drawn(pipe, edited, prompts, seed)]
        for prompt, other, (tokens, found) in zip(
            prompts, with_editing, drawn(pipe, plain, prompts, seed), strict=True
        ):
            wrong = [kind(prompt, one) for one in (found, other)]
            for counts, one in zip(kinds.values(), wrong, strict=True):
                counts.update([one] if one else [])
            both += all(wrong)
            correct += not wrong[0]
            if wrong[0] or correct % _CORRECT_ONES == 0:
                objects = [covered_by([item], tokens) for item in found]
                shares = [filled_again(pipe, again, prompt, tokens, masked) for masked in objects]
                shares.append(filled_again(pipe, again, prompt, tokens, ~covered_by(found, tokens)))
                (repaired if wrong[0] else kept).append(shares)
    return {
        "images": images,
        "wrong": {name: dict(counts) for name, counts in kinds.items()},
        "wrong_both_times": both,
        "filled_again": {
            "wrong_images": len(repaired),
            "correct_with_the_best_choice": mean([max(shares) for shares in repaired]),
            "correct_with_the_best_object": mean([max(shares[:-1], default=0.0) for shares in repaired]),
            "correct_with_all_else": mean([shares[-1] for shares in repaired]),
            "correct_images": len(kept),
            "still_correct_with_any_object": mean([share for shares in kept for share in shares[:-1]]),
            "still_correct_with_all_else": mean([shares[-1] for shares in kept]),
        },
    }


def drawn(
    pipe: Pipeline, settings: GenerationSettings, prompts: list[Prompt], seed: int
) -> list[tuple[torch.Tensor, list[Detection]]]:
    """Return the tokens (h, w) of each prompt's image, and what the detector finds in it."""
    images = []
    for first in range(0, len(prompts), _BATCH):
        texts = [prompt["prompt"] for prompt in prompts[first : first + _BATCH]]
        seeds = [seed + first + index for index in range(len(texts))]
        output = pipe.start(texts, settings, seed=seeds).output()
        images += [
            (tokens, detect(np.asarray(image)))
            for tokens, image in zip(output.tokens, output.images, strict=True)
        ]
    return images


def kind(prompt: Prompt, found: list[Detection]) -> str | None:
    """Return what is wrong with an image, by what the detector finds in it; None if nothing is."""
    if is_correct(prompt, found):
        return None
    shapes = Counter[str]()
    for entry in prompt["include"]:
        shapes[entry["class"]] += entry["count"]
    if len(found) != shapes.total():
        return "too many objects" if len(found) > shapes.total() else "too few objects"
    if Counter(item.name for item in found) != shapes:
        return "a wrong shape"
    wanted = {(entry["class"], entry["color"]) for entry in prompt["include"] if "color" in entry}
    if wanted - {(item.name, item.color) for item in found}:
        return "a wrong colour"
    return "a wrong place"


@torch.inference_mode()
def filled_again(
    pipe: Pipeline, settings: GenerationSettings, prompt: Prompt, tokens: torch.Tensor, masked: torch.Tensor
) -> float:
    """Return how often the image is correct after its `masked` tokens, (h, w) bool, were filled again."""
    assert settings.height is not None and settings.width is not None
    components, (height, width) = pipe.components, tokens.shape
    grids = tokens.masked_fill(masked, components.mask_code).repeat(_TRIES, 1, 1)
    steps = sample(
        components.denoiser,
        components.prompts([prompt["prompt"]] * _TRIES, settings.height, settings.width),
        grid=(height, width),
        sampler=make_sampler(settings),
        generators=[torch.Generator().manual_seed(1000 + number) for number in range(_TRIES)],
        tokens=grids,
        editable=masked.repeat(_TRIES, 1, 1),
    )
    *_, last = steps
    pixels = components.decode(last.tokens).permute(0, 2, 3, 1).numpy()
    return statistics.fmean(is_correct(prompt, detect(image)) for image in pixels)


def covered_by(objects: list[Detection], tokens: torch.Tensor) -> torch.Tensor:
    """Return the tokens that objects' boxes cover, (h, w) bool."""
    height, width = tokens.shape
    found = torch.zeros_like(tokens, dtype=torch.bool)
    for left, top, right, bottom in (item.box for item in objects):
        found[covered(top, bottom, height), covered(left, right, width)] = True
    return found


def covered(first: float, last: float, count: int) -> slice:
    """Return which of `count` tokens in a row a box covers from `first` to `last`, fractions of the row."""
    start, stop = math.floor(first * count + _COVERED), math.ceil(last * count - _COVERED)
    return slice(max(0, start), max(start + 1, stop))


def mean(values: list[float]) -> float | None:
    """Return the mean, or None for no values."""
    return round(statistics.fmean(values), 3) if values else None


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"experiment: {error}")
