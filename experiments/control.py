"""Measure control without retraining on the bundled model: larger canvases, classifier guidance, scaffolds.

python experiments/control.py canvas   [--sizes 384x384 512x512] [--powers 0 2.7] [--images K] [--seeds 1 2 3]
python experiments/control.py steering [--scales 0 50] [--attribute background] [--images K] [--seeds 1 2 3]
python experiments/control.py scaffold [--images K] [--seeds 1 2 3]

Each line of the output is a JSON object: a score over K prompts of `smalti evaluate scenes` with one seed. A power of
0 and a scale of 0 are the model without scaling and without guidance. `steering` renders labelled scenes, trains a
classifier on their tokens, and asks for each label in turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

import smalti
from smalti.editing.scaffold import Scaffold, read_scaffold
from smalti.evaluation.suites.scenes.detector import detect
from smalti.evaluation.suites.scenes.prompts import scene_prompts
from smalti.evaluation.suites.scenes.score import score_images
from smalti.generation.settings import GenerationSettings
from smalti.pipeline import Pipeline
from smalti.storage.classifiers import with_classifier
from smalti.training.classifier import encode_labelled, find_labelled, train_classifier
from smalti.worlds.scenes.palette import BACKGROUNDS, COLORS
from smalti.worlds.scenes.scene import compose, render
from smalti.worlds.scenes.world import sample_metadata
from smalti.worlds.tasks import TAGS

# Tags whose prompts leave the colour of their objects open.
_OPEN_COLORS = ("single_object", "counting")


def main() -> None:
    """Run one of the three measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measurement", choices=("canvas", "steering", "scaffold"), help="what is measured")
    parser.add_argument("--sizes", nargs="+", default=["384x384", "512x512"], help="height x width in pixels")
    parser.add_argument(
        "--powers", nargs="+", type=float, default=[0, 2.7], help="map_power; 0 is no scaling"
    )
    parser.add_argument("--scales", nargs="+", type=float, default=[0, 50], help="scale of the guidance")
    parser.add_argument(
        "--attribute", choices=("background", "color"), default="background", help="what is steered"
    )
    parser.add_argument("--labelled", type=int, default=60, help="training images of each label")
    parser.add_argument("--images", type=int, default=12, help="prompts of each seed, a multiple of 6")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="seeds of the images")
    parser.add_argument("--dtype", default="bfloat16", help="dtype of the denoiser")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe = smalti.load(dtype=arguments.dtype)
    run = {"canvas": canvas, "steering": steering, "scaffold": scaffolds}[arguments.measurement]
    run(pipe, arguments)


def canvas(pipe: Pipeline, arguments: argparse.Namespace) -> None:
    """Score larger canvases with and without scaled rotary positions."""
    own = pipe.denoiser.config
    for seed in arguments.seeds:
        for size in arguments.sizes:
            height, width = map(int, size.split("x"))
            for power in arguments.powers:
                rope = dataclasses.replace(own.rope, map_side=8 if power else 0, map_power=power or 1.0)
                pipe.denoiser.config = dataclasses.replace(own, rope=rope)
                pipe.denoiser._tables.clear()
                prompts = prompts_of(arguments.images, seed)
                settings = pipe.settings.replaced(height=height, width=width)
                report({"size": size, "power": power}, prompts, seed, draw(pipe, prompts, settings, seed))
    pipe.denoiser.config = own


def steering(pipe: Pipeline, arguments: argparse.Namespace) -> None:
    """Score images that are steered to a background or to a colour that their prompts leave open."""
    names = list(BACKGROUNDS if arguments.attribute == "background" else COLORS)
    pipe = steered(pipe, arguments.attribute, names, arguments.labelled)
    for seed in arguments.seeds:
        for scale in arguments.scales:
            prompts = prompts_of(arguments.images, seed, arguments.attribute == "color")
            images: list[Any] = [None] * len(prompts)
            for number, label in enumerate(names):
                rows = range(number, len(prompts), len(names))
                rule = f"classifier:{label},scale={scale:g}" if scale else "none"
                drawn = draw(
                    pipe, [prompts[row] for row in rows], pipe.settings.replaced(steering=rule), seed, rows
                )
                for row, image in zip(rows, drawn, strict=True):
                    images[row] = image
            shown = background_of if arguments.attribute == "background" else color_of
            met = [shown(image) == names[row % len(names)] for row, image in enumerate(images)]
            values = {"attribute": arguments.attribute, "scale": scale, "met": round(sum(met) / len(met), 3)}
            report(values, prompts, seed, images)


def steered(pipe: Pipeline, attribute: str, names: Sequence[str], count: int) -> Pipeline:
    """Return the model with a classifier that is trained on rendered scenes, `count` of each label."""
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            folder = Path(place) / name
            folder.mkdir()
            for index in range(count):
                Image.fromarray(labelled(attribute, name, index)).save(folder / f"{index}.png")
        found = find_labelled(place)
        tokens, numbers = encode_labelled(pipe.image_tokenizer, found, pipe.settings.size)
    codebook = pipe.image_tokenizer.quantize.embedding.weight.detach().float()
    trained = train_classifier(codebook, tokens, numbers, tuple(found))
    print(json.dumps({"classifier": attribute, "accuracy": trained.accuracy}), flush=True)
    classifier = trained.network.classifier(codebook, trained.labels)
    return Pipeline(with_classifier(pipe.components, classifier))


def labelled(attribute: str, name: str, index: int) -> np.ndarray:
    """Return a rendered scene with a background, or with all objects in a colour."""
    random = Random(f"smalti labelled {attribute} {name} {index}")
    metadata = sample_metadata(TAGS[index % len(TAGS)], random)
    scene = compose(metadata, random, lattice=8)
    if attribute == "background":
        return render(dataclasses.replace(scene, background=name))
    objects = tuple(dataclasses.replace(item, color=name, right_color=None) for item in scene.objects)
    return render(dataclasses.replace(scene, objects=objects))


def scaffolds(pipe: Pipeline, arguments: argparse.Namespace) -> None:
    """Score images within templates, and the same images without one."""
    for seed in arguments.seeds:
        prompts = prompts_of(arguments.images, seed)
        for name, scaffold in (("none", None), *templates(pipe)):
            images = draw(pipe, prompts, pipe.settings, seed, scaffold=scaffold)
            report({"scaffold": name}, prompts, seed, images)


def templates(pipe: Pipeline) -> list[tuple[str, Scaffold]]:
    """Return a frame of two tokens in slate, and a band of slate over the lowest quarter, both around sky."""
    found = []
    for name in ("frame", "horizon"):
        pixels = np.full((256, 256, 3), BACKGROUNDS["sky"], dtype=np.uint8)
        open_part = np.zeros((16, 16), dtype=bool)
        open_part[(slice(2, 14), slice(2, 14)) if name == "frame" else slice(0, 12)] = True
        pixels[~open_part.repeat(16, axis=0).repeat(16, axis=1)] = BACKGROUNDS["slate"]
        found.append((name, read_scaffold(pipe.components, pixels, open_part)))
    return found


def prompts_of(count: int, seed: int, open_colors: bool = False) -> list[dict[str, Any]]:
    """Return prompts, as many of each task; or prompts that name no colour."""
    if not open_colors:
        return scene_prompts(per_tag=count // len(TAGS), seed=seed)
    chosen = [p for p in scene_prompts(per_tag=count // 2, seed=seed) if p["tag"] in _OPEN_COLORS]
    return [p for p in chosen if not any("color" in item for item in p["include"])]


def draw(
    pipe: Pipeline,
    prompts: Sequence[dict[str, Any]],
    settings: GenerationSettings,
    seed: int,
    rows: Sequence[int] | None = None,
    scaffold: Scaffold | None = None,
) -> list[Image.Image]:
    """Return an image of each prompt, six at a time, with seeds by the prompts' places."""
    places = list(rows or range(len(prompts)))
    images = []
    for first in range(0, len(prompts), 6):
        texts = [prompt["prompt"] for prompt in prompts[first : first + 6]]
        seeds = [seed * 1000 + place for place in places[first : first + 6]]
        images += pipe(texts, settings=settings, seed=seeds, scaffold=scaffold).images
    return images


def background_of(image: Image.Image) -> str:
    """Return the background whose colour is nearest to the median of an image's pixels."""
    median = np.median(np.asarray(image).reshape(-1, 3), axis=0)
    return min(BACKGROUNDS, key=lambda name: float(np.square(median - BACKGROUNDS[name]).sum()))


def color_of(image: Image.Image) -> str | None:
    """Return the colour that all objects of an image have; None if there is none."""
    colors = {found.color for found in detect(np.asarray(image))}
    return colors.pop() if len(colors) == 1 else None


def report(
    values: dict[str, Any], prompts: Sequence[dict[str, Any]], seed: int, images: Sequence[Any]
) -> None:
    """Print a line with the score of images."""
    mean = score_images(prompts, ([image] for image in images))["mean"]
    line = {**values, "seed": seed, "images": len(images), "score": round(mean, 3)}
    print(json.dumps({**line, "cpu_seconds": round(time.process_time(), 1)}), flush=True)


if __name__ == "__main__":
    main()
