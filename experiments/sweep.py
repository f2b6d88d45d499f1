"""Measure what each part of the training brings: short trainings of the small denoiser that differ in one thing.

python experiments/sweep.py --tokenizer FOLDER [--start-from FOLDER] [--steps 300] [--seeds 0 1] [--images 120]
    [--variants NAME …] [--own "NAME: KEY=VALUE …" …] [--set KEY=VALUE …]

Variants with the same seed have the same start, the same images and, where masks are not what differs, the same masks,
step by step. Each variant is trained for the same number of steps and then measured, with averaged weights, on scenes
that no training saw:

- loss of masked tokens and hit rate of the likeliest token, at mask ratios of 0.3, 0.6 and 0.9
- loss on scenes with shape-colour pairs that training never shows
- nats by which an image's loss is higher when its prompt has two colours swapped
- scenes score of images made from prompts, at the model's own settings and at 8 steps

A finished run is not repeated, and a stopped one continues. Runs of several calls may share a folder, also at the same
time. Results go to results.json, results.md and results.png in --output.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch

import smalti
from smalti.common.files import write_json_atomic, write_text_atomic
from smalti.errors import SmaltiError
from smalti.evaluation.subject import Subject
from smalti.evaluation.suites.scenes.contrast import measure_contrasts
from smalti.evaluation.suites.scenes.prompts import scene_prompts
from smalti.evaluation.suites.scenes.score import score_images
from smalti.generation.settings import GenerationSettings
from smalti.objective.loss import denoising_loss
from smalti.pipeline import Pipeline
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import train_denoiser
from smalti.training.reading import load_config
from smalti.vq.groups import CodeGroups
from smalti.worlds.scenes.config import ScenesConfig
from smalti.worlds.scenes.world import Scenes
from smalti.worlds.tasks import TAGS

VARIANTS: dict[str, list[str]] = {
    "as configured": [],
    "plain embedding and head": ["code_network=null"],
    "no masks in the sampling order": ["objective.masking={rare_first: 0.1, box: 0.1, uniform: 0.8}"],
    "rare codes not first": ['objective.masking={"ordered:order=halton": 0.7, box: 0.1, uniform: 0.2}'],
    "masks as in the reference model": ["objective.masking={uniform: 1}"],
    "no convolution of the prompt": ["model.prompt_convolution=0"],
    "no flips": ["objective.flip_ratio=0"],
    "flips 0.3": ["objective.flip_ratio=0.3"],
    "edit loss 0": ["objective.edit_loss_weight=0"],
    "edit loss 1": ["objective.edit_loss_weight=1"],
    "self-generated 0.5": ["objective.self_generated={share: 0.5, start_step: 0}"],
    "self-generated 0.5, no flips": [
        "objective.self_generated={share: 0.5, start_step: 0}",
        "objective.flip_ratio=0",
    ],
    "no prompt dropped": ["objective.prompt_drop_rate=0"],
    "64 groups × 0.5": ["objective.group_weights={64: 0.5}"],
    "512 groups × 0.2": ["objective.group_weights={512: 0.2}"],
    "512 groups × 1": ["objective.group_weights={512: 1}"],
    "2048 groups × 0.2": ["objective.group_weights={2048: 0.2}"],
    "2048 groups × 1": ["objective.group_weights={2048: 1}"],
}
Sample = dict[str, Any]
MASK_RATIOS = (0.3, 0.6, 0.9)
UNSEEN_SEED = 987
_BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/scenes.yaml", help="configuration of the denoiser")
    parser.add_argument("--tokenizer", required=True, help="folder of an image tokenizer, or of a model")
    parser.add_argument(
        "--start-from", help="model that all variants continue from; by default random weights"
    )
    parser.add_argument("--cache", default="cache/sweep", help="folder of the token cache")
    parser.add_argument("--output", type=Path, default=Path("runs/sweep"), help="folder of the results")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="by default all without groups")
    parser.add_argument(
        "--own",
        nargs="+",
        default=[],
        metavar="NAME: KEY=VALUE …",
        help="more variants",
    )
    parser.add_argument("--list-variants", action="store_true", help="print what the names stand for")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of the trainings")
    parser.add_argument("--steps", type=int, default=300, help="steps of training")
    parser.add_argument("--device", default="cpu", help="PyTorch device of training and measuring")
    parser.add_argument("--images", type=int, default=120, help="images for each scenes score; 0 is no score")
    parser.add_argument(
        "--scenes", type=int, default=256, help="scenes for the losses; a quarter for swapped colours"
    )
    parser.add_argument("--groups", type=int, nargs="*", default=[], help="groupings whose hits are counted")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="changes of the configuration for all variants",
    )
    options = parser.parse_args()
    if options.list_variants:
        print("\n".join(f"{name}: {' '.join(changes) or 'as it is'}" for name, changes in VARIANTS.items()))
        return
    variants = chosen(options)
    # Seed by seed, so that a stop leaves whole comparisons.
    trainings = [(seed, name) for seed in options.seeds for name in variants]
    results: list[dict[str, Any]] = []
    missing = [item for item in trainings if not folder_of(options, *item).joinpath("measured.json").exists()]
    print(f"{len(trainings)} trainings of {options.steps} steps, {len(missing)} to run", flush=True)
    for seed, name in trainings:
        started = time.monotonic()
        results.append({"variant": name, "seed": seed, **run(options, name, variants[name], seed)})
        print(json.dumps(results[-1]), flush=True)
        if (seed, name) in missing:
            missing.remove((seed, name))
            minutes = (time.monotonic() - started) / 60
            print(f"took {minutes:.1f} min; the rest about {minutes * len(missing):.0f} min", flush=True)
        write_json_atomic(options.output / "results.json", results)
    table = summary(results)
    write_text_atomic(options.output / "results.md", table)
    plot(results, options.output / "results.png")
    print(table)


def chosen(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the overrides of the variants that are asked for, by name."""
    known = dict(VARIANTS)
    for text in options.own:
        name, colon, overrides = text.partition(":")
        if not colon:
            raise SmaltiError(f'--own must be "NAME: KEY=VALUE …", not {text!r}')
        known[name.strip()] = shlex.split(overrides)
    own = list(known)[len(VARIANTS) :]
    names = [*(options.variants or [name for name in VARIANTS if "groups" not in name]), *own]
    for name in names:
        if name not in known:
            raise SmaltiError(f"--variants must be of {', '.join(known)}, not {name!r}")
    return {name: known[name] for name in names}


def folder_of(options: argparse.Namespace, seed: int, name: str) -> Path:
    """Return the folder of a training."""
    return options.output / f"{name.replace(' ', '-').replace('×', 'x')}-seed{seed}"


def run(options: argparse.Namespace, name: str, overrides: list[str], seed: int) -> dict[str, float | None]:
    """Train one variant and measure it, unless that was done."""
    folder = folder_of(options, seed, name)
    found = folder / "measured.json"
    if found.exists():
        return json.loads(found.read_text(encoding="utf-8"))
    config = load_config(
        DenoiserRunConfig,
        options.config,
        [
            f"output={folder}",
            f"seed={seed}",
            f"tokenizer={options.tokenizer}",
            f"cache.path={options.cache}",
            f"loop.steps={options.steps}",
            f"loop.device={options.device}",
            *([f"start_from={options.start_from}"] if options.start_from else []),
            *options.overrides,
            *overrides,
        ],
    )
    if not isinstance(config.data, ScenesConfig):
        raise SmaltiError(f"--config must train on scenes, not on data of the kind {config.data.kind!r}")
    train_denoiser(config)
    pipe = smalti.load(folder / "model", device=options.device)
    lattice, size = config.data.lattice, pipe.denoiser.config.image_size
    held_out = unseen_scenes(size, lattice, options.scenes // 2, held_out=True)
    measured = {
        **losses(pipe, unseen_scenes(size, lattice, options.scenes), options.groups),
        "held_out_loss": losses(pipe, held_out)["token_loss"],
        "swapped_colors": swapped_colors(pipe, options.scenes // 4, lattice),
        **(scores(pipe, options.images) if options.images else {}),
    }
    write_json_atomic(found, measured)
    return measured


def unseen_scenes(size: int, lattice: int | None, number: int, *, held_out: bool = False) -> Iterator[Sample]:
    """Yield scenes that no training saw; with `held_out` they show a shape in a colour that training never shows."""
    scenes = Scenes(seed=UNSEEN_SEED, size=size, split="test" if held_out else "train", lattice=lattice)
    wanted = (index for index in count() if scenes.scene(index).held_out == held_out)
    return (scenes[index] for index in islice(wanted, number))


@torch.inference_mode()
def losses(pipe: Pipeline, samples: Iterator[Sample], groups: Sequence[int] = ()) -> dict[str, float]:
    """Return mean losses and hit rates of the masked tokens of images under their captions.

    Args:
        pipe: the model.
        samples: `{"image": uint8 (3, H, W), "caption": str}` each, all of one size.
        groups: groupings by k-means whose losses and hits are measured, too.
    """
    components, denoiser, config = pipe.components, pipe.denoiser, pipe.denoiser.config
    device, codebook = denoiser.head.device, pipe.image_tokenizer.quantize.embedding.weight
    ids = [CodeGroups.from_kmeans(codebook.cpu(), count).ids.to(device) for count in groups]
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {}
    while part := list(islice(samples, _BATCH)):
        images = torch.stack([sample["image"] for sample in part])
        targets = components.encode(images).to(device)
        prompt = components.prompts([sample["caption"] for sample in part], *images.shape[2:])
        for ratio in MASK_RATIOS:
            masked = (torch.rand(targets.shape, generator=generator) < ratio).to(device)
            loss = denoising_loss(
                denoiser(targets.masked_fill(masked, config.mask_code), prompt),
                denoiser.gen_predictor,
                targets,
                masked,
                edit_loss_weight=0.0,
                groups=ids,
                group_weights=[0.0] * len(ids),
            )
            for key, value in [
                ("token_loss", loss.masked),
                ("token_hit", loss.accuracy),
                *((f"group_loss_{n}", nats) for n, nats in zip(groups, loss.group, strict=True)),
                *((f"group_hit_{n}", hit) for n, hit in zip(groups, loss.group_accuracy, strict=True)),
            ]:
                found.setdefault(key, []).append(float(value.value))
    return {key: round(statistics.fmean(values), 5) for key, values in found.items()}


def swapped_colors(pipe: Pipeline, number: int, lattice: int | None) -> float:
    """Return by how many nats an image's loss is higher with two colours swapped, all its tokens masked."""
    size = pipe.denoiser.config.image_size
    scores = measure_contrasts(
        pipe.components, "swapped_colors", number, lattice=lattice, size=size, mask_ratios=(1.0,)
    )
    return scores[1.0]["nats"]


def scores(pipe: Pipeline, number: int) -> dict[str, float | None]:
    """Return the scenes score of the model's images, at its own settings and at 8 steps."""
    prompts = scene_prompts(-(-number // len(TAGS)))
    texts = [prompt["prompt"] for prompt in prompts]

    def score(settings: GenerationSettings) -> dict[str, Any]:
        images = Subject.of(pipe, settings).draw(texts, seed=0, batch_size=_BATCH)
        return score_images(prompts, ([image] for image in images))

    found, few = score(pipe.settings), score(pipe.settings.replaced(num_inference_steps=8))
    return {"score": found["mean"], "held_out_score": found["held_out"], "score_8_steps": few["mean"]}


def summary(results: list[dict[str, Any]]) -> str:
    """Return a Markdown table: mean ± half the range over seeds."""
    keys = [key for key in results[0] if key not in ("variant", "seed")]
    lines = [f"| variant | {' | '.join(keys)} |", "| --- |" + " --- |" * len(keys)]
    for name in dict.fromkeys(result["variant"] for result in results):
        cells = []
        for key in keys:
            values = found(results, name, key)
            spread = (
                f"{statistics.fmean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}" if values else "–"
            )
            cells.append(spread)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def found(results: list[dict[str, Any]], name: str, key: str) -> list[float]:
    """Return the measured values of a variant, one a seed; a score of too few images is missing."""
    return [one[key] for one in results if one["variant"] == name and one[key] is not None]


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Plot a panel for each measurement, with a point for each run."""
    try:
        import matplotlib
    except ImportError:
        print(f"{path} needs matplotlib: pip install 'smalti[plots]'", file=sys.stderr)
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    keys = [key for key in results[0] if key not in ("variant", "seed")]
    names = list(dict.fromkeys(result["variant"] for result in results))
    size = (2.6 * len(keys), 1 + 0.4 * len(names))
    figure, axes = pyplot.subplots(1, len(keys), figsize=size, sharey=True, layout="tight")
    for axis, key in zip(axes, keys, strict=True):
        for place, name in enumerate(names):
            if not (values := found(results, name, key)):
                continue
            axis.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.7)
            axis.plot([statistics.fmean(values)], [place], "|", color="black", markersize=16)
        axis.set_title(key, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"experiment: {error}")
