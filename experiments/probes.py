"""Measure what linear probes read from the features of a model, against the same probes on its image tokenizer.

python experiments/probes.py [shapes] [depth] [--model FOLDER] [--scenes 500] [--tests 100] [--output runs/probes]

The task shapes finds the shape of every pixel, of ten or background. The task depth tells the upper of two overlapping
shapes from the lower one. A probe is one linear map from the features of a token to the classes of its 4×4 parts,
fitted by ridge regression in closed form on --scenes scenes. Its strength is chosen on the last fifth of them.

Probes read the codebook's vectors, those of the tokens around as well, the features with the caption as a prompt, and
the features without a prompt. results.json holds mean intersection over union over the classes, and for depth the share
of scenes whose upper shape has the larger score.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from probe_scenes import Labelled, depth_scene, shapes_scene

import smalti
from smalti.common.files import read_json, write_json_atomic
from smalti.errors import SmaltiError
from smalti.pipeline import Pipeline
from smalti.reading.features import features
from smalti.worlds.scenes.shapes import SHAPES

Read = Callable[[Pipeline, torch.Tensor, Labelled], torch.Tensor]
PARTS = 4
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)


def codes(pipe: Pipeline, tokens: torch.Tensor, scene: Labelled) -> torch.Tensor:
    """Return the codebook's vector of each token: (h, w, D)."""
    return pipe.image_tokenizer.quantize.embedding.weight[tokens].float()


def codes_around(pipe: Pipeline, tokens: torch.Tensor, scene: Labelled) -> torch.Tensor:
    """Return the codebook's vectors of each token and those around it, 5×5: (h, w, 25 · D)."""
    vectors = codes(pipe, tokens, scene).permute(2, 0, 1)[None]
    return torch.nn.functional.unfold(vectors, 5, padding=2)[0].T.unflatten(0, tokens.shape)


def prompted(pipe: Pipeline, tokens: torch.Tensor, scene: Labelled) -> torch.Tensor:
    """Return the features with the caption as a prompt: (h, w, C)."""
    return features(pipe.components, tokens, scene.prompt).stacked()


def unprompted(pipe: Pipeline, tokens: torch.Tensor, scene: Labelled) -> torch.Tensor:
    """Return the features without a prompt: (h, w, C)."""
    return features(pipe.components, tokens, None).stacked()


READERS: dict[str, Read] = {
    "codes": codes,
    "codes 5x5": codes_around,
    "features, caption": prompted,
    "features, no prompt": unprompted,
}
TASKS = {"shapes": (shapes_scene, 1 + len(SHAPES)), "depth": (depth_scene, 3)}


class Probe:
    """A linear map from features to classes, by ridge regression in closed form; it keeps no row of features."""

    def __init__(self, width: int, outputs: int) -> None:
        self.products = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        self.targets = torch.zeros(width + 1, outputs, dtype=torch.float64)

    def add(self, rows: torch.Tensor, targets: torch.Tensor) -> None:
        """Add rows (n, width) with their targets (n, outputs)."""
        x = with_one(rows)
        self.products += (x.T @ x).double()
        self.targets += (x.T @ targets).double()

    def solve(self, strength: float) -> torch.Tensor:
        """Return the map, (width + 1, outputs); `strength` is a part of the mean of the diagonal."""
        penalty = strength * self.products.diagonal().mean() * torch.eye(len(self.products)).double()
        return torch.linalg.solve(self.products + penalty, self.targets).float()


def with_one(rows: torch.Tensor) -> torch.Tensor:
    """Return rows with a last column of ones: (n, width) → (n, width + 1)."""
    return torch.cat([rows, torch.ones(len(rows), 1)], dim=1)


def parts_of(scene: Labelled, tokens: torch.Tensor, count: int) -> torch.Tensor:
    """Return the share of each class in the 4×4 parts of each token: (h·w, 16 · count) float32."""
    height, width = tokens.shape
    side = scene.classes.shape[0] // height // PARTS
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(scene.classes), count).float()
    pooled = one_hot.unflatten(0, (height, PARTS, side)).unflatten(3, (width, PARTS, side)).mean((2, 5))
    return pooled.permute(0, 2, 1, 3, 4).reshape(height * width, -1)


def score_map(values: torch.Tensor, tokens: torch.Tensor, count: int, size: int) -> torch.Tensor:
    """Return the scores of the classes of each pixel, from those of the parts: (h·w, 16 · count) → (count, H, W)."""
    height, width = tokens.shape
    grid = values.view(height, width, PARTS, PARTS, count).permute(4, 0, 2, 1, 3)
    coarse = grid.reshape(1, count, height * PARTS, width * PARTS)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")[0]


def intersections(found: np.ndarray, true: np.ndarray, count: int) -> np.ndarray:
    """Return intersection and union of each class: (2, count)."""
    pairs = [((found == k) & (true == k), (found == k) | (true == k)) for k in range(count)]
    return np.array([[both.sum() for both, _ in pairs], [either.sum() for _, either in pairs]])


@torch.inference_mode()
def measure(pipe: Pipeline, task: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the scores of a task for each kind of features."""
    make, count = TASKS[task]
    fitting, checking, testing = options.scenes * 4 // 5, options.scenes, options.scenes + options.tests
    scenes: list[tuple[torch.Tensor, Labelled]] = []
    for index in range(testing):
        scene = make(index, seed=options.seed, size=pipe.settings.height)
        pixels = torch.from_numpy(scene.pixels).permute(2, 0, 1)[None]
        scenes.append((pipe.components.encode(pixels)[0], scene))
    results = {}
    for name, read in READERS.items():
        probe: Probe | None = None
        best = (-1.0, STRENGTHS[0])
        for number, (tokens, scene) in enumerate(scenes[:checking]):
            rows = read(pipe, tokens, scene).flatten(0, 1)
            probe = probe or Probe(rows.shape[1], PARTS**2 * count)
            if number == fitting:  # the strength is chosen before the held-back scenes are added
                held_back = scenes[fitting:checking]
                best = max(
                    (tested(pipe, probe.solve(one), read, held_back, count)["miou"], one) for one in STRENGTHS
                )
            probe.add(rows, parts_of(scene, tokens, count))
        assert probe is not None
        results[name] = tested(pipe, probe.solve(best[1]), read, scenes[checking:], count)
        results[name] |= {"strength": best[1], "width": len(probe.products) - 1}
        print(json.dumps({task: {name: results[name]}}), flush=True)
    return results


def tested(
    pipe: Pipeline, probe: torch.Tensor, read: Read, scenes: list[tuple[torch.Tensor, Labelled]], count: int
) -> dict[str, float]:
    """Return the scores of a fitted probe on scenes."""
    totals, right = np.zeros((2, count)), []
    for tokens, scene in scenes:
        values = with_one(read(pipe, tokens, scene).flatten(0, 1)) @ probe
        scores = score_map(values, tokens, count, len(scene.classes))
        totals += intersections(scores.argmax(0).numpy(), scene.classes, count)
        if count == 3:  # depth: the upper shape's rise of "upper" over "lower" against the lower one's
            rise = (scores[2] - scores[1]).numpy()
            right.append(rise[scene.classes == 2].mean() > rise[scene.classes == 1].mean())
    shown = totals[1] > 0  # a class that no scene shows and no probe claims has no score
    found = {"miou": round(float((totals[0][shown] / totals[1][shown]).mean()), 4)}
    return found | ({"order": round(float(np.mean(right)), 4)} if right else {})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+", choices=TASKS, help="what to measure")
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--scenes", type=int, default=500, help="scenes that a probe is fitted on")
    parser.add_argument("--tests", type=int, default=100, help="scenes that it is tested on")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.add_argument("--output", type=Path, default=Path("runs/probes"), help="folder of the results")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    pipe = smalti.load(options.model, device=options.device)
    place = options.output / "results.json"
    scores = read_json(place) if place.exists() else {}
    for task in options.tasks:
        scores[task] = measure(pipe, task, options)
        scores[task] |= {"scenes": options.scenes, "tests": options.tests, "seed": options.seed}
        write_json_atomic(place, scores)


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as fault:
        sys.exit(f"experiment: {fault}")
