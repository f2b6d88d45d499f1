"""Train the two networks of the scorer of objects, and choose the nouns that it claims to know.

python tools/train_objects_scorer.py --archive objects [--work runs/objects-scorer] [--seed 0]
    [--output smalti/models/objects-scorer.safetensors] [--json]

The training goes in four phases, and a run that was stopped goes on from the files in `--work`:

1. the segmenter, on scenes of training drawings;
2. the classifier, on crops of training drawings without those for validation;
3. the choice of claimed nouns and of the threshold, on the drawings for validation and on what has no known noun;
4. the classifier again, at a lower rate, with the drawings for validation and with things cut out of scenes, half of
   them after an image tokenizer.

Held-out drawings are in none of them. Training uses one thread, because another order of sums would give other weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scorer_batches as batches
import torch
import torch.nn.functional as F
from scorer_claims import choose_claims
from scorer_crops import crops, junk
from scorer_harvest import Harvest, harvest
from scorer_material import FOLDS, Material
from scorer_training import fit
from torch import nn

from smalti.common.randomness import stream
from smalti.evaluation.suites.objects.detector import UNKNOWN
from smalti.evaluation.suites.objects.networks import NounClassifier, Segmenter
from smalti.evaluation.suites.objects.scorer import WEIGHTS, Scorer, load_scorer, save_scorer
from smalti.storage.folder import load_image_tokenizer

_SCENES, _CROPS, _JUNK = 12, 120, 8  # images a step
_NARROW, _NARROW_SHARE = 160, 0.65  # side of the scenes in the first part of the steps, which is faster
_HARVESTED = 40  # of the crops in the last phase
_BLENDED, _SMOOTHING = 0.5, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archive", type=Path, required=True, help="archive of sprites, or its folder")
    parser.add_argument("--work", type=Path, default=Path("runs/objects-scorer"), help="folder of the states")
    parser.add_argument("--seed", type=int, default=0, help="which batches and which starting weights")
    parser.add_argument("--scene-steps", type=int, default=900, help=f"steps of {_SCENES} scenes")
    parser.add_argument("--crop-steps", type=int, default=4000, help=f"steps of {_CROPS + _JUNK} crops")
    parser.add_argument("--last-steps", type=int, default=1000, help="steps with the drawings for validation")
    parser.add_argument(
        "--harvest", type=int, default=3000, help="scenes whose things are crops of the last phase"
    )
    parser.add_argument(
        "--tokenizer", type=Path, help="image tokenizer through which half of these scenes go"
    )
    parser.add_argument("--start", type=Path, help="scorer whose weights are the first")
    parser.add_argument(
        "--only", choices=("segmenter", "classifier"), help="train one network's first phase, and stop"
    )
    parser.add_argument("--folds", type=int, nargs="+", default=range(FOLDS), help="classifiers that --only trains")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="file of the weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    material = Material.read(options.archive, options.work / "sprites.safetensors")
    if options.only:
        (
            train_segmenter(options, material)
            if options.only == "segmenter"
            else [train_classifier(options, material, fold) for fold in options.folds]
        )
        return
    result = train(options, material)
    result["seconds"] = round(time.perf_counter() - started, 1)
    print(
        json.dumps(result)
        if options.json
        else "\n".join(f"{name:>16}  {value}" for name, value in result.items())
    )


def train(options: argparse.Namespace, material: Material) -> dict[str, object]:
    """Train both networks, write them, and return what was found."""
    segmenter = train_segmenter(options, material)
    first = train_classifier(options, material)
    claims = choose_claims(first, material, options.seed)
    tokenizer = None if options.tokenizer is None else load_image_tokenizer(options.tokenizer)
    kept = options.work / "harvest.safetensors"
    show = not options.json
    harvested = harvest(material, segmenter, tokenizer, options.harvest, options.seed, kept, show)
    classifier = train_classifier(options, material, first, harvested)
    knowledge = material.knowledge(claims.nouns, claims.threshold)
    save_scorer(Scorer(segmenter, classifier, knowledge), options.output)
    return {
        "seed": options.seed,
        "scenes": options.scene_steps * _SCENES,
        "crops": (options.crop_steps + options.last_steps) * (_CROPS + _JUNK),
        "nouns": len(material.nouns),
        **claims.report,
    }


def train_segmenter(options: argparse.Namespace, material: Material) -> Segmenter:
    """Return the segmenter after its phase."""
    steps = options.scene_steps

    def loss(network: nn.Module, step: int) -> torch.Tensor:
        """Return the loss of a step; the first ones have small scenes."""
        size = _NARROW if step < _NARROW_SHARE * steps else batches.SCENE
        return scene_loss(network, material, options.seed, step, size)

    torch.manual_seed(options.seed)
    state = options.work / "segmenter.safetensors"
    start = None if options.start is None else load_scorer(options.start).segmenter
    rate = 3e-3 if start is None else 1.5e-3
    return fit(Segmenter(), loss, steps, rate=rate, state=state, start=start, show=not options.json)


def train_classifier(
    options: argparse.Namespace,
    material: Material,
    fold: int,
    start: NounClassifier | None = None,
    harvested: Harvest | None = None,
) -> NounClassifier:
    """Return one of the classifiers after its first phase, or after its last one, which starts from the first."""
    last = start is not None
    steps, part = options.last_steps if last else options.crop_steps, f"train {fold}"

    def loss(network: nn.Module, step: int) -> torch.Tensor:
        """Return the loss of a step."""
        generator = stream(options.seed, f"{'last' if last else 'crops'} {fold}", step)
        return crop_loss(network, material, part, generator, harvested)

    torch.manual_seed(options.seed + fold)
    state = options.work / f"{'last' if last else 'classifier'}-{fold}.safetensors"
    network = NounClassifier(len(material.nouns))
    rate = 1.5e-3 if last else 4e-3
    return fit(network, loss, steps, rate=rate, state=state, start=start, show=not options.json)


def scene_loss(network: nn.Module, material: Material, seed: int, step: int, size: int) -> torch.Tensor:
    """Return the loss of the segmenter: cross-entropy of the cover, and the distance of centres in cells."""
    generator = stream(seed, "scenes", step)
    places = material.scene(_SCENES, generator)
    images, cover, offsets = batches.scenes(material.sprites, places, generator, size)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images)
    found = found.float()
    covering = F.binary_cross_entropy_with_logits(found[:, :1], cover)
    inside = (cover > 0.5).float()
    distance = F.smooth_l1_loss(found[:, 1:] * inside, offsets * inside, reduction="sum", beta=2.0)
    return covering + 0.05 * distance / inside.sum().clamp_min(1)


def crop_loss(
    network: nn.Module,
    material: Material,
    part: str,
    generator: torch.Generator,
    harvested: Harvest | None,
) -> torch.Tensor:
    """Return the cross-entropy of a batch of crops: sprites, what has no noun, and crops of scenes.

    Half of the batches are blends of two images each (mixup), which tells the classifier less about single drawings.
    """
    ready = 0 if harvested is None or not len(harvested.labels) else _HARVESTED
    places, labels = material.crops(_CROPS - ready, part, generator)
    parts = [
        crops(material.sprites, places, generator),
        junk(material.sprites, material.crops(_JUNK, part, generator)[0], generator),
    ]
    wanted = torch.from_numpy(np.concatenate([labels, np.full(_JUNK, len(material.nouns))]))
    if ready:
        assert harvested is not None
        found, own = harvested.batch(ready, generator)
        parts.append(found)
        wanted = torch.cat([wanted, own])
    images = torch.cat(parts)
    share, order = 1.0, torch.randperm(len(images), generator=generator)
    if float(torch.rand((), generator=generator)) < _BLENDED:
        share = 0.5 + 0.5 * float(torch.rand((), generator=generator)) ** 0.5
        images = share * images + (1 - share) * images[order]
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images).float()
    first = F.cross_entropy(logits, wanted, label_smoothing=_SMOOTHING)
    second = F.cross_entropy(logits, wanted[order], label_smoothing=_SMOOTHING)
    return share * first + (1 - share) * second


if __name__ == "__main__":
    main()
