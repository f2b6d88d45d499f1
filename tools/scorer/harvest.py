"""Crops of sprites as the segmenter finds them in scenes of the world: what masks and flaws do to things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from scorer.batches import uniform
from scorer.crops import restyle
from scorer.looks import draw_scene, pieces_near, spots
from scorer.material import Material
from tqdm import tqdm

from smalti.common.files import atomic_path
from smalti.common.randomness import stream
from smalti.evaluation.suites.objects.crops import cut, on_grey
from smalti.evaluation.suites.objects.detector import masks_of
from smalti.evaluation.suites.objects.edges import CROP
from smalti.evaluation.suites.objects.instances import find_instances
from smalti.evaluation.suites.objects.networks import Segmenter
from smalti.worlds.objects.composing import Composer

_LONE_SHARE = 0.25  # of the scenes; the others have four sprites


@dataclass(frozen=True)
class Harvest:
    """Crops by number.

    Attributes:
        crops: (n, 4, 40, 40) uint8.
        labels: (n,) int64, numbers of nouns.
        asides: (n,) int64, which classifier must not see a crop; −1 for none.
    """

    crops: torch.Tensor
    labels: torch.Tensor
    asides: torch.Tensor

    def without(self, fold: int) -> Harvest:
        """Return the crops that a classifier may see."""
        kept = self.asides != fold
        return Harvest(self.crops[kept], self.labels[kept], self.asides[kept])

    def batch(
        self, count: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (count, 4, 40, 40) floats, mirrored and in other colours at random; their labels and asides."""
        places = torch.randint(len(self.labels), (count,), generator=generator)
        crops = self.crops[places].float() / 255
        mirrored = torch.rand(count, generator=generator) < 0.5
        crops = torch.where(mirrored[:, None, None, None], crops.flip(3), crops)
        masks = crops[:, 3:]
        things = torch.cat([(crops[:, :3] - 0.5 * (1 - masks)).clamp_min(0), masks], dim=1)
        gain = uniform(generator, count, 0.85, 1.15)[:, None, None, None]
        changed = restyle(things, generator, outlines=False)
        color = torch.where(masks > 0.02, changed[:, :3] / masks.clamp_min(0.02), 0.5) * gain
        return on_grey(color.clamp(0, 1), masks), self.labels[places], self.asides[places]


@torch.inference_mode()
def harvest(
    material: Material, segmenter: Segmenter, count: int, seed: int, path: Path, show: bool
) -> Harvest:
    """Return the crops of `count` scenes of training sprites; a file keeps them.

    Args:
        material: sprites by part.
        segmenter: trained segmenter.
        count: number of scenes.
        seed: seed of the scenes.
        path: file that keeps the crops.
        show: whether a progress bar is shown.
    """
    if path.exists():
        return Harvest(**load_file(path))
    composer = Composer.of(material.collection)
    crops, labels, asides = [torch.empty(0, 4, CROP, CROP, dtype=torch.uint8)], [], []
    for index in tqdm(range(count), desc="scenes", disable=not show, mininterval=10):
        generator = stream(seed, "harvest", index)
        lone = float(torch.rand((), generator=generator)) < _LONE_SHARE
        numbers, own = material.crops(1 if lone else 4, "all", generator)
        pixels = draw_scene(composer, numbers, seed, index)
        cover, offsets = segmenter(pixels[None])
        instances = find_instances(cover[0], offsets[0])
        for number, label, (spot, reach) in zip(numbers, own, spots(len(numbers)), strict=False):
            # All pieces of a sprite are one thing.
            piece = pieces_near(instances.owners, spot, reach)
            if piece.any():
                masks, boxes = masks_of([piece], instances.owners, instances.covered, pixels.shape[1:])
                crops.append((cut(pixels, masks, boxes) * 255).round().to(torch.uint8))
                labels.append(int(label))
                asides.append(int(material.aside[number]))
    made = Harvest(torch.cat(crops), torch.tensor(labels), torch.tensor(asides))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file({"crops": made.crops, "labels": made.labels, "asides": made.asides}, temporary)
    return made
