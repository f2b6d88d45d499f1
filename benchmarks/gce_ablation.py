"""What grouped cross-entropy brings: the small denoiser trained with it and without, everything else the same.

python benchmarks/gce_ablation.py --tokenizer FOLDER [--steps 2000] [--seeds 0 1] [--images 240] [key=value …]

Variants with the same seed have the same start, the same pictures and the same masks, step by step. Each is trained for
the same number of steps and then measured, with averaged weights, on held-out scenes: the loss of masked tokens, how
often the likeliest token is right and how often it is in the right one's group, at mask ratios of 0.3, 0.6 and 0.9; and
the scenes score of pictures made from prompts. A run that is there is not made again, and one that was stopped goes on.

Results go to results.json, results.md and results.png in --output.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import yaml

from smalti.checkpoint import load_denoiser, load_image_tokenizer, load_text_tokenizer
from smalti.data.scenes import Scenes
from smalti.evaluation.geneval import score_images
from smalti.evaluation.prompts import scene_prompts
from smalti.files import write_json_atomic, write_text_atomic
from smalti.loading import load
from smalti.model.prompt import build_prompts
from smalti.objective.loss import denoising_loss
from smalti.training.config import DenoiserRunConfig, load_config
from smalti.training.denoiser import train_denoiser
from smalti.vq.groups import CodeGroups

MASK_RATIOS = (0.3, 0.6, 0.9)
_HELD_OUT_SEED = 987
_BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/scenes.yaml", help="of the denoiser")
    parser.add_argument("--tokenizer", required=True, help="folder of an image tokenizer")
    parser.add_argument("--cache", default="cache/gce-ablation", help="folder of the tokens")
    parser.add_argument("--output", type=Path, default=Path("runs/gce-ablation"))
    parser.add_argument("--groups", type=int, nargs="+", default=[512, 2048], help="numbers of groups")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.2, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--images", type=int, default=240, help="pictures for the scenes score")
    parser.add_argument("--held-out", type=int, default=256, help="scenes for the losses")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the configuration")
    options = parser.parse_args()
    variants: dict[str, dict[int, float]] = {"cross-entropy": {}}
    variants |= {f"{count} groups × {w:g}": {count: w} for count in options.groups for w in options.weights}
    results = []
    for seed in options.seeds:  # seed by seed, so that a stop leaves whole comparisons
        for name, weights in variants.items():
            results.append({"variant": name, "seed": seed, **run(options, name, weights, seed)})
            print(json.dumps(results[-1]), flush=True)
            write_json_atomic(options.output / "results.json", results)
    table = summary(results)
    write_text_atomic(options.output / "results.md", table)
    plot(results, options.output / "results.png")
    print(table)


def run(
    options: argparse.Namespace, name: str, weights: dict[int, float], seed: int
) -> dict[str, float | None]:
    """Train one variant and measure it, unless that was done."""
    folder = options.output / f"{name.replace(' ', '').replace('×', 'x')}-seed{seed}"
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
            f"objective.group_weights={yaml.safe_dump(weights, default_flow_style=True).strip()}",
            *options.overrides,
        ],
    )
    train_denoiser(config)
    measured = {**losses(options, folder / "model", config.data.lattice), **scores(options, folder / "model")}
    write_json_atomic(found, measured)
    return measured


@torch.inference_mode()
def losses(options: argparse.Namespace, model: Path, lattice: int | None) -> dict[str, float]:
    """Mean loss and hit rates of masked tokens of held-out scenes, without a prompt's being dropped."""
    denoiser, tokenizer = load_denoiser(model), load_image_tokenizer(model)
    text, config = load_text_tokenizer(model), denoiser.config
    codebook = tokenizer.quantize.embedding.weight
    groups = {count: CodeGroups.from_kmeans(codebook, count).ids for count in options.groups}
    scenes = Scenes(seed=_HELD_OUT_SEED, size=config.image_size, split="train", lattice=lattice)
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {}
    for first in range(0, options.held_out, _BATCH):
        samples = [scenes[index] for index in range(first, min(first + _BATCH, options.held_out))]
        targets = tokenizer.from_pixels(torch.stack([sample["image"] for sample in samples]))
        height, width = targets.shape[1:]
        prompt = build_prompts(
            [sample["caption"] for sample in samples],
            config.prompt,
            text,
            height=config.image_size,
            width=config.image_size,
            slots=config.slots(height, width),
        )
        for ratio in MASK_RATIOS:
            masked = torch.rand(targets.shape, generator=generator) < ratio
            loss = denoising_loss(
                denoiser(targets.masked_fill(masked, config.mask_code), prompt),
                denoiser.head,
                targets,
                masked,
                edit_loss_weight=0.0,
                groups=list(groups.values()),
                group_weights=[0.0] * len(groups),
            )
            for key, value in [
                ("token_loss", loss.masked),
                ("token_hit", loss.accuracy),
                *((f"group_hit_{n}", hit) for n, hit in zip(groups, loss.group_accuracy, strict=True)),
            ]:
                found.setdefault(key, []).append(float(value))
    return {key: round(statistics.fmean(values), 5) for key, values in found.items()}


def scores(options: argparse.Namespace, model: Path) -> dict[str, float | None]:
    """The scenes score of the model's pictures, at its own settings."""
    pipe = load(model)
    prompts = scene_prompts(-(-options.images // 6))
    images: list[Any] = []
    for first in range(0, len(prompts), _BATCH):
        part = [prompt["prompt"] for prompt in prompts[first : first + _BATCH]]
        images += pipe(part, seed=[first + index for index in range(len(part))]).images
    found = score_images(prompts, ([image] for image in images))
    return {"score": found["mean"], "single_object": found["single_object"]}


def summary(results: list[dict[str, Any]]) -> str:
    """A Markdown table: mean ± half the range over seeds."""
    keys = [key for key in results[0] if key not in ("variant", "seed")]
    lines = [f"| objective | {' | '.join(keys)} |", "| --- |" + " --- |" * len(keys)]
    for name in dict.fromkeys(result["variant"] for result in results):
        cells = []
        for key in keys:
            values = [result[key] for result in results if result["variant"] == name]
            cells.append(f"{statistics.fmean(values):.3f} ± {(max(values) - min(values)) / 2:.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """A panel for each measurement, a point for each run."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    keys = [key for key in results[0] if key not in ("variant", "seed")]
    names = list(dict.fromkeys(result["variant"] for result in results))
    figure, axes = pyplot.subplots(1, len(keys), figsize=(2.6 * len(keys), 3), sharey=True, layout="tight")
    for axis, key in zip(axes, keys, strict=True):
        for place, name in enumerate(names):
            values = [result[key] for result in results if result["variant"] == name]
            axis.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.7)
            axis.plot([statistics.fmean(values)], [place], "|", color="black", markersize=16)
        axis.set_title(key, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
