"""Measure what grouped cross-entropy and token editing bring on real things, at equal budgets.

python experiments/objects_claims.py --tokenizers FOLDER … [--archive objects] [--images 12800] [--seeds 0 1 2]
    [--set KEY=VALUE …]

For each image tokenizer of V codes five objectives are trained from the same start with the same images and masks:
cross-entropy, and grouped cross-entropy with V/8 and V/2 groups and weights of 0.2 and 1. The denoiser is small, and
its images are 128×128 pixels. Each is then measured, with averaged weights, on scenes that no training saw:

- losses and hits of masked tokens and of their groups, at mask ratios of 0.3, 0.6 and 0.9
- images whose tokens are masked at three ratios and filled in, with and without token editing: PSNR against the image
  tokenizer's own round trip, and the share that the suite's scorer calls correct
- the scorer's share of images from prompts, with 4 to 32 steps, with and without token editing

Token shards are made once for each tokenizer. A finished run is not repeated, and a stopped one continues. Results go
to results.json, results.md and results.png in --output; the logs of the runs have the losses against the images seen.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sweep import UNSEEN_SEED, losses, plot, summary

import smalti
from smalti.common.files import read_json, write_json_atomic, write_text_atomic
from smalti.errors import SmaltiError
from smalti.evaluation.subject import Subject
from smalti.evaluation.suites.objects.suite import Objects as Suite
from smalti.generation.settings import GenerationSettings
from smalti.pipeline import Pipeline
from smalti.storage.folder import load_image_tokenizer
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import train_denoiser
from smalti.training.reading import load_config
from smalti.training.tokenizing import read_encoding, tokenize
from smalti.worlds.objects.world import Objects

SIZE, LATTICE = 128, 8
BATCH = 32
FILL_RATIOS, FILL_STEPS = (0.5, 0.75, 0.9), 8
STEPS = (4, 8, 16, 32)
EDITING = "threshold:0.3"
GROUNDS = {"plain": 1.0}
STYLES = {"fluent-3d": 1.0}
MODEL = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 32,
    "intermediate_size": 704,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizers", nargs="+", required=True, help="folders of image tokenizers")
    parser.add_argument("--config", default="configs/objects.yaml", help="configuration of the denoiser")
    parser.add_argument("--archive", default="objects", help="archive of sprites, or its folder")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/objects-claims"), help="folder of the results"
    )
    parser.add_argument("--images", type=int, default=12_800, help="images that a training sees")
    parser.add_argument("--shards", type=int, default=16_384, help="different images of the token shards")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--scenes", type=int, default=256, help="unseen scenes for the losses")
    parser.add_argument("--fills", type=int, default=60, help="unseen scenes to fill in; 0 fills none")
    parser.add_argument("--draws", type=int, default=60, help="images from prompts; 0 draws none")
    parser.add_argument(
        "--set", nargs="+", default=[], dest="overrides", metavar="KEY=VALUE", help="changes of all trainings"
    )
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for seed in options.seeds:
        for folder in options.tokenizers:
            codes = load_image_tokenizer(folder).config.codebook_size
            shards = make_shards(options, folder, codes)
            for name, weights in objectives(codes).items():
                found = run(
                    options, folder, shards, codes, weights, options.output / f"{codes}-{name}-{seed}", seed
                )
                results.append({"variant": f"{codes} codes, {name}", "seed": seed, **found})
                print(json.dumps(results[-1]), flush=True)
                write_json_atomic(options.output / "results.json", results)
    write_text_atomic(options.output / "results.md", summary(results))
    plot(results, options.output / "results.png")
    print(summary(results))


def objectives(codes: int) -> dict[str, dict[int, float]]:
    """Return the weight of each grouping, by the names of the objectives."""
    grouped = {
        f"{codes // part} groups x {weight}": {codes // part: weight}
        for part in (8, 2)
        for weight in (0.2, 1.0)
    }
    return {"cross-entropy": {}, **grouped}


def make_shards(options: argparse.Namespace, tokenizer: str, codes: int) -> Path:
    """Return the folder of the token shards of an image tokenizer; make them unless they are there."""
    folder = options.output / f"tokens-{codes}"
    data = {"kind": "objects", "seed": 11, **scenes(options)}
    values = {"output": str(folder), "tokenizer": tokenizer, "samples": options.shards, "data": data}
    tokenize(read_encoding({**values, "loop": {"batch_size": BATCH}}))
    return folder


def scenes(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all scenes of the experiment have in common."""
    common = {"size": SIZE, "lattice": LATTICE, "styles": STYLES, "grounds": GROUNDS}
    return {"archive": options.archive, **common}


def run(
    options: argparse.Namespace,
    tokenizer: str,
    shards: Path,
    codes: int,
    weights: dict[int, float],
    folder: Path,
    seed: int,
) -> dict[str, float]:
    """Train one objective and measure it, unless that was done."""
    if (folder / "measured.json").exists():
        return read_json(folder / "measured.json")
    config = load_config(
        DenoiserRunConfig,
        options.config,
        [
            f"output={folder}",
            f"seed={seed}",
            f"tokenizer={tokenizer}",
            f"data={json.dumps({'kind': 'tokens', 'path': str(shards)})}",
            "cache=null",
            *(f"model.{key}={value}" for key, value in MODEL.items()),
            "code_network=null",
            f"objective.group_weights={json.dumps(weights) if weights else 'null'}",
            f"loop={json.dumps({'steps': options.images // BATCH, 'batch_size': BATCH, 'preview_every': 10**6})}",
            *options.overrides,
        ],
    )
    train_denoiser(config)
    pipe = smalti.load(folder / "model")
    groups = [codes // 8, codes // 2]
    found: dict[str, float] = {}
    world = Objects(seed=UNSEEN_SEED, **scenes(options))
    for name, value in losses(pipe, (world[index] for index in range(options.scenes)), groups).items():
        for part, number in (("8", groups[0]), ("2", groups[1])):
            name = name.replace(f"_{number}", f"_V/{part}")
        found[name] = value
    if options.fills:
        found |= fills(pipe, world, options.fills)
    if options.draws:
        found |= draws(pipe, options.draws)
    write_json_atomic(folder / "measured.json", found)
    return found


def fills(pipe: Pipeline, world: Objects, number: int) -> dict[str, float]:
    """Return PSNR and verdicts of unseen scenes whose tokens are masked and filled in."""
    suite, found = Suite(), {}
    rows, _ = pipe.components.grid(SIZE, SIZE)
    for editing in ("none", EDITING):
        settings = pipe.settings.replaced(num_inference_steps=FILL_STEPS, revision=editing)
        for ratio in FILL_RATIOS:
            noise, correct = [], []
            for index in range(number):
                scene, sample = world.scene(index), world[index]
                draw = np.random.default_rng([index, int(100 * ratio)])
                # Whole patches, because a visible neighbour in the same patch nearly tells a token.
                mask = (draw.random((rows // 2, rows // 2)) < ratio).repeat(2, 0).repeat(2, 1)
                image = sample["image"].permute(1, 2, 0).numpy()
                edit = pipe.edit(
                    image, sample["caption"], mask=mask, seed=index, settings=settings, keep_pixels=False
                )
                trip = pipe.image_tokenizer.to_pixels(edit.tokens_before[None])[0].permute(1, 2, 0)
                filled = np.asarray(edit.image)
                error = np.square(filled.astype(np.float64) - trip.numpy()).mean()
                noise.append(10 * np.log10(255**2 / max(error, 1e-2)))
                row = suite.score(scene.metadata, [Image.fromarray(filled)])
                if not row.unclaimed and not row.without_sprite:
                    correct += row.row.correct
            word = "edited" if editing != "none" else "plain"
            found[f"fill_{ratio}_{word}_psnr"] = round(statistics.fmean(noise), 3)
            found[f"fill_{ratio}_{word}_correct"] = round(statistics.fmean(correct), 4)
    return found


def draws(pipe: Pipeline, number: int) -> dict[str, float]:
    """Return the scorer's mean over the tasks for images from prompts."""
    suite, found = Suite(), {}
    prompts = suite.prompts(number, 0)
    texts = [prompt["prompt"] for prompt in prompts]

    def score(settings: GenerationSettings) -> float:
        images = Subject.of(pipe, settings).draw(texts, seed=0, batch_size=BATCH)
        rows = [suite.score(prompt, [image]) for prompt, image in zip(prompts, images, strict=True)]
        return suite.summarize(rows)["mean"]

    for word, editing in (("plain", "none"), ("edited", EDITING)):
        for steps in STEPS:
            found[f"draw_{steps}_{word}"] = score(
                pipe.settings.replaced(num_inference_steps=steps, revision=editing)
            )
    return found


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"experiment: {error}")
