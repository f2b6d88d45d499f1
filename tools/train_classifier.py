"""Train the small classifier of scenes on whose features `smalti evaluate distance` compares images.

python tools/train_classifier.py [--steps 1600] [--seed 0] [--output smalti/models/classifier.safetensors] [--json]

Every image is new. Half of the scenes have any layout, half lie on the bundled model's lattice, and all shape-colour
pairs occur. Training uses one thread, because another order of sums would give other weights. At the end the weights,
rounded to float16 as they are stored, are measured on scenes that were not trained on: the share of images for which
every prediction is correct.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from smalti.evaluation.suites.scenes.features import (
    ONE_OF,
    SEVERAL,
    SIDE,
    WEIGHTS,
    SceneClassifier,
    load_classifier,
    save_classifier,
    targets,
)
from smalti.worlds.scenes.scene import render
from smalti.worlds.scenes.world import Scenes

_LATTICES = (None, 8)
_TRAINING_SEEDS = 1_000_000  # first seed of training; `smalti evaluate` counts from 0
_BATCH = 64
_LEARNING_RATE = 2e-3
_WARMUP = 0.1  # share of the steps
_SMOOTHED = 100  # steps over which the loss that is shown is averaged


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1600, help=f"number of steps of {_BATCH} images")
    parser.add_argument("--seed", type=int, default=0, help="which scenes and which starting weights")
    parser.add_argument("--held-out", type=int, default=2000, help="images of each kind to measure on")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="file of the weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    save_classifier(train(options.steps, options.seed, show=not options.json), options.output)
    result: dict[str, object] = {
        "steps": options.steps,
        "images": options.steps * _BATCH,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - started, 1),
    }
    classifier = load_classifier(options.output)
    for lattice in _LATTICES:
        result["free" if lattice is None else f"lattice {lattice}"] = accuracy(
            classifier, lattice, options.held_out
        )
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        text = (
            "  ".join(f"{key} {share:.4f}" for key, share in value.items())
            if isinstance(value, dict)
            else value
        )
        print(f"{name:>10}  {text}")


def train(steps: int, seed: int, *, batch_size: int = _BATCH, show: bool = False) -> SceneClassifier:
    """Return a classifier after so many steps of AdamW; the learning rate rises, then falls along a cosine."""
    torch.manual_seed(seed)
    classifier = SceneClassifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, steps, pct_start=_WARMUP)
    sources = [
        Scenes(seed=_TRAINING_SEEDS + seed, size=SIDE, split="test", lattice=lattice) for lattice in _LATTICES
    ]
    progress = tqdm(range(steps), disable=not show, mininterval=5)
    smooth = 0.0
    for step in progress:
        indices = range(step * batch_size, (step + 1) * batch_size)
        images, wanted = labelled([(sources[index % len(sources)], index) for index in indices])
        with torch.autocast("cpu", torch.bfloat16):
            logits = classifier(images)
        loss = error(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        smooth += (loss.item() - smooth) / min(step + 1, _SMOOTHED)
        progress.set_postfix(loss=f"{smooth:.3f}", refresh=False)
    return classifier.eval()


def labelled(picked: list[tuple[Scenes, int]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return images (B, 3, SIDE, SIDE) uint8 of scenes by source and index, and what they show, (B, n) or (B,)."""
    scenes = [source.scene(index) for source, index in picked]
    drawn = [render(scene, source.size) for scene, (source, _) in zip(scenes, picked, strict=True)]
    images = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
    wanted = [targets(scene) for scene in scenes]
    return images, {name: torch.stack([one[name] for one in wanted]) for name in wanted[0]}


def error(logits: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean over images of the cross-entropy, summed over all predictions."""
    total = torch.zeros(())
    for name in SEVERAL:
        values = F.binary_cross_entropy_with_logits(logits[name].float(), wanted[name], reduction="none")
        total = total + values.sum(dim=1).mean()
    for name in ONE_OF:
        total = total + F.cross_entropy(logits[name].float(), wanted[name])
    return total


@torch.inference_mode()
def accuracy(classifier: SceneClassifier, lattice: int | None, count: int) -> dict[str, float]:
    """Return the share of unseen images with correct predictions, for shapes, for colours, ..."""
    source = Scenes(seed=0, size=256, split="test", lattice=lattice)
    correct = {name: 0 for name in SEVERAL | ONE_OF}
    for first in range(0, count, _BATCH):
        indices = range(first, min(first + _BATCH, count))
        images, wanted = labelled([(source, index) for index in indices])
        for name, logits in classifier(images).items():
            if name in SEVERAL:
                hits = ((logits > 0) == wanted[name].bool()).all(dim=1)
            else:
                hits = logits.argmax(dim=1) == wanted[name]
            correct[name] += int(hits.sum())
    return {name: round(hits / count, 4) for name, hits in correct.items()}


if __name__ == "__main__":
    main()
