"""Train the networks of the scorer of objects, and choose the nouns that it claims to know.

python tools/train_objects_scorer.py --archive objects [--work runs/objects-scorer] [--seed 0]
    [--output smalti/models/objects-scorer.safetensors] [--json]

The training goes in five phases, and a run that was stopped goes on from the files in `--work`:

1. the segmenter, on scenes of training drawings;
2. crops of training drawings, as the segmenter finds them in scenes;
3. three classifiers over maps of edges, each on the crops of two thirds of the training drawings;
4. four classifiers over descriptions of edges: three on the same thirds, the last one on all training drawings;
5. the choice of claimed classes: each drawing is named by all classifiers, and by those that have not seen it.

The scorer has the three classifiers of phase 3 and the last one of phase 4. Held-out drawings are in no phase.
Training uses one thread, because another order of sums would give other weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from scorer import batches
from scorer.claims import THRESHOLD, choose_claims
from scorer.crops import crops, junk
from scorer.harvest import Harvest, harvest
from scorer.material import FOLDS, Material
from scorer.training import fit
from torch import nn

from smalti.common.randomness import stream
from smalti.evaluation.suites.objects.edges import describe
from smalti.evaluation.suites.objects.naming import DescriptionClassifier, MapClassifier, NounClassifiers
from smalti.evaluation.suites.objects.networks import FINE, STRIDE, Segmenter
from smalti.evaluation.suites.objects.scorer import WEIGHTS, Scorer, save_scorer

_SCENES, _CROPS, _JUNK = 12, 120, 8  # images a step
_NARROW, _NARROW_SHARE = 160, 0.65  # side of the scenes in the first part of the steps, which is faster
_WIDE = 320  # crops a step of the classifiers over descriptions
_HARVESTED, _HARVESTED_WIDE = 56, 140  # crops of scenes among them
_BLENDED, _SMOOTHING = 0.5, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archive", type=Path, required=True, help="archive of sprites, or its folder")
    parser.add_argument("--work", type=Path, default=Path("runs/objects-scorer"), help="folder of the states")
    parser.add_argument("--seed", type=int, default=0, help="which batches and which starting weights")
    parser.add_argument("--scene-steps", type=int, default=900, help=f"steps of {_SCENES} scenes")
    parser.add_argument("--harvest", type=int, default=5000, help="scenes from which crops are taken")
    parser.add_argument("--crop-steps", type=int, default=5000, help=f"steps of {_CROPS + _JUNK} crops")
    parser.add_argument(
        "--described-steps", type=int, default=2000, help=f"steps of {_WIDE} crops by their descriptions"
    )
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="file of the weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    material = Material.read(options.archive, options.work / "sprites.safetensors")
    result = train(options, material)
    result["seconds"] = round(time.perf_counter() - started, 1)
    print(
        json.dumps(result)
        if options.json
        else "\n".join(f"{name:>16}  {value}" for name, value in result.items())
    )


def train(options: argparse.Namespace, material: Material) -> dict[str, object]:
    """Train all networks, write them, and return what was found."""
    show = not options.json
    segmenter = train_segmenter(options, material)
    kept = options.work / "harvest.safetensors"
    harvested = harvest(material, segmenter, options.harvest, options.seed, kept, show)
    mapped = [train_mapped(options, material, fold, harvested) for fold in range(FOLDS)]
    described = train_described(options, material, harvested)
    juries = [assemble(len(material.nouns), [mapped[fold]], [described[fold]]) for fold in range(FOLDS)]
    classifier = assemble(len(material.nouns), mapped, [described[FOLDS]])
    claims = choose_claims(classifier, juries, segmenter, material, options.seed)
    knowledge = material.knowledge(claims.classes, THRESHOLD)
    save_scorer(Scorer(segmenter, classifier, knowledge), options.output)
    return {
        "seed": options.seed,
        "scenes": options.scene_steps * _SCENES,
        "crops": options.crop_steps * (_CROPS + _JUNK),
        "nouns": len(material.nouns),
        **claims.report,
    }


def assemble(
    nouns: int, mapped: Sequence[MapClassifier], described: Sequence[DescriptionClassifier]
) -> NounClassifiers:
    """Return trained classifiers as one."""
    classifier = NounClassifiers(nouns, len(mapped), len(described))
    for own, trained in zip([*classifier.mapped, *classifier.described], [*mapped, *described], strict=True):
        own.load_state_dict(trained.state_dict())
    return classifier.eval()


def train_segmenter(options: argparse.Namespace, material: Material) -> Segmenter:
    """Return the segmenter after its phase."""
    steps = options.scene_steps

    def loss(network: nn.Module, step: int) -> torch.Tensor:
        """Return the loss of a step; the first ones have small scenes."""
        size = _NARROW if step < _NARROW_SHARE * steps else batches.SCENE
        return scene_loss(network, material, options.seed, step, size)

    torch.manual_seed(options.seed)
    state = options.work / "segmenter.safetensors"
    return fit(Segmenter(), loss, steps, rate=3e-3, state=state, show=not options.json)


def train_mapped(
    options: argparse.Namespace, material: Material, fold: int, harvested: Harvest
) -> MapClassifier:
    """Return the classifier over maps that does not see one third of the training drawings."""
    own = harvested.without(fold)

    def loss(network: nn.Module, step: int) -> torch.Tensor:
        """Return the loss of a step."""
        return crop_loss(network, material, fold, stream(options.seed, f"crops {fold}", step), own)

    torch.manual_seed(options.seed + fold)
    state = options.work / f"mapped-{fold}.safetensors"
    network = MapClassifier(len(material.nouns))
    return fit(network, loss, options.crop_steps, rate=3e-3, state=state, show=not options.json)


def train_described(options: argparse.Namespace, material: Material, harvested: Harvest) -> nn.ModuleList:
    """Return the classifiers over descriptions: one without each third of the drawings, and one with all of them."""
    number = len(material.nouns)

    def loss(networks: nn.Module, step: int) -> torch.Tensor:
        """Return the loss of a step."""
        return described_loss(networks, material, stream(options.seed, "described", step), harvested)

    torch.manual_seed(options.seed)
    networks = nn.ModuleList(DescriptionClassifier(number) for _ in range(FOLDS + 1))
    state = options.work / "described.safetensors"
    return fit(networks, loss, options.described_steps, rate=3e-3, state=state, show=not options.json)


def scene_loss(network: nn.Module, material: Material, seed: int, step: int, size: int) -> torch.Tensor:
    """Return the loss of the segmenter: cross-entropy of the cover, and the distance of centres in cells."""
    generator = stream(seed, "scenes", step)
    places = material.scene(_SCENES, generator)
    images, cover, offsets = batches.scenes(material.sprites, places, generator, size)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images)
    covering = F.binary_cross_entropy_with_logits(found.cover.float(), cover)
    inside = (F.avg_pool2d(cover, STRIDE // FINE) > 0.5).float()
    gap = F.smooth_l1_loss(found.offsets.float() * inside, offsets * inside, reduction="sum", beta=2.0)
    return covering + 0.05 * gap / inside.sum().clamp_min(1)


def crop_loss(
    network: nn.Module, material: Material, fold: int, generator: torch.Generator, harvested: Harvest
) -> torch.Tensor:
    """Return the cross-entropy of a batch of crops: sprites, what has no noun, and crops of scenes.

    Half of the batches are blends of two images each (mixup), which tells the classifier less about single drawings.
    """
    part = f"train {fold}"
    places, labels = material.crops(_CROPS - _HARVESTED, part, generator)
    found, named, _ = harvested.batch(_HARVESTED, generator)
    spoiled = junk(material.sprites, material.crops(_JUNK, part, generator)[0], generator)
    images = torch.cat([crops(material.sprites, places, generator), found, spoiled])
    wanted = torch.cat([torch.from_numpy(labels), named, torch.full((_JUNK,), len(material.nouns))])
    share, order = 1.0, torch.randperm(len(images), generator=generator)
    if float(torch.rand((), generator=generator)) < _BLENDED:
        share = 0.5 + 0.5 * float(torch.rand((), generator=generator)) ** 0.5
        images = share * images + (1 - share) * images[order]
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images).float()
    first = F.cross_entropy(logits, wanted, label_smoothing=_SMOOTHING)
    second = F.cross_entropy(logits, wanted[order], label_smoothing=_SMOOTHING)
    return share * first + (1 - share) * second


def described_loss(
    networks: nn.Module, material: Material, generator: torch.Generator, harvested: Harvest
) -> torch.Tensor:
    """Return the mean cross-entropy of the classifiers over descriptions.

    All see the same crops, less those of drawings that they must not see.
    """
    places, labels = material.crops(_WIDE - _HARVESTED_WIDE, "all", generator)
    found, named, hidden = harvested.batch(_HARVESTED_WIDE, generator)
    spoiled = junk(material.sprites, material.crops(_JUNK, "all", generator)[0], generator)
    features = describe(torch.cat([crops(material.sprites, places, generator), found, spoiled]))
    wanted = torch.cat([torch.from_numpy(labels), named, torch.full((_JUNK,), len(material.nouns))])
    asides = torch.cat([torch.from_numpy(material.aside[places]), hidden, torch.full((_JUNK,), -1)])
    total = torch.zeros(())
    for fold, network in enumerate(networks):
        own = asides != fold
        total = total + F.cross_entropy(network.named(features[own]), wanted[own], label_smoothing=_SMOOTHING)
    return total / len(networks)


if __name__ == "__main__":
    main()
