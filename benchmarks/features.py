"""Train the small classifier of scenes on whose features `smalti evaluate distance` compares pictures.

python benchmarks/features.py [--steps 1600] [--seed 0] [--output smalti/models/classifier.safetensors] [--json]

Every picture is new: half are scenes of any layout, half lie on the bundled model's lattice, and all shape-colour pairs
occur. One thread, because sums in another order would give other weights. In the end the weights, rounded to float16
as they are kept, are measured on scenes that were not trained on: the share of pictures of which all is said right.
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
_TRAINING_SEEDS = 1_000_000  # where those of training start; `smalti evaluate` counts from 0
_BATCH = 64
_LEARNING_RATE = 2e-3
_WARMUP = 0.1  # share of the steps
_SMOOTHED = 100  # steps over which the loss that is shown is averaged


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1600, help=f"of {_BATCH} pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=2000, help="pictures to measure on, of either kind")
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    save_classifier(train(options.steps, options.seed, show=not options.json), options.output)
    result: dict[str, object] = {
        "steps": options.steps,
        "pictures": options.steps * _BATCH,
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
    """A classifier after so many steps of AdamW; the learning rate rises, then falls along a cosine."""
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
    """Pictures (B, 3, SIDE, SIDE) uint8 of scenes by source and index, and what is in them, (B, n) or (B,)."""
    scenes = [source.scene(index) for source, index in picked]
    drawn = [render(scene, source.size) for scene, (source, _) in zip(scenes, picked, strict=True)]
    images = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
    wanted = [targets(scene) for scene in scenes]
    return images, {name: torch.stack([one[name] for one in wanted]) for name in wanted[0]}


def error(logits: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of a picture, summed over all that is to be said of it."""
    total = torch.zeros(())
    for name in SEVERAL:
        values = F.binary_cross_entropy_with_logits(logits[name].float(), wanted[name], reduction="none")
        total = total + values.sum(dim=1).mean()
    for name in ONE_OF:
        total = total + F.cross_entropy(logits[name].float(), wanted[name])
    return total


@torch.inference_mode()
def accuracy(classifier: SceneClassifier, lattice: int | None, count: int) -> dict[str, float]:
    """The share of unseen pictures of which all shapes, all colours, ... are said right."""
    source = Scenes(seed=0, size=256, split="test", lattice=lattice)
    right = {name: 0 for name in SEVERAL | ONE_OF}
    for first in range(0, count, _BATCH):
        indices = range(first, min(first + _BATCH, count))
        images, wanted = labelled([(source, index) for index in indices])
        for name, logits in classifier(images).items():
            if name in SEVERAL:
                hits = ((logits > 0) == wanted[name].bool()).all(dim=1)
            else:
                hits = logits.argmax(dim=1) == wanted[name]
            right[name] += int(hits.sum())
    return {name: round(hits / count, 4) for name, hits in right.items()}


if __name__ == "__main__":
    main()
