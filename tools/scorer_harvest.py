"""Crops of things as the segmenter finds them in scenes of the world, half of them after an image tokenizer.

They teach the classifier what masks and round trips do to things.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scorer_batches import uniform
from scorer_material import Material
from tqdm import tqdm

from smalti.common.files import atomic_path
from smalti.evaluation.suites.objects.detector import cut_things, working_pixels
from smalti.evaluation.suites.objects.networks import CROP, Segmenter
from smalti.vq.tokenizer import ImageTokenizer
from smalti.worlds.objects.scene import Scene
from smalti.worlds.objects.world import Objects

_LATTICE, _LATTICE_SHARE = 16, 0.3
_SEED = 1_000_000  # of the scenes; suites count from 0
_LEAST_FILLED, _LEAST_INSIDE = 0.55, 0.8  # share of a box that a mask fills, and of a mask inside the box


@dataclass(frozen=True)
class Harvest:
    """Crops by number.

    Attributes:
        crops: (n, 4, 40, 40) uint8.
        labels: (n,) int64, numbers of nouns; the number of nouns for anything else.
    """

    crops: torch.Tensor
    labels: torch.Tensor

    def batch(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (count, 4, 40, 40) floats and their labels; mirrored, lighter or darker at random."""
        places = torch.randint(len(self.labels), (count,), generator=generator)
        crops = self.crops[places].float() / 255
        mirrored = torch.rand(count, generator=generator) < 0.5
        crops = torch.where(mirrored[:, None, None, None], crops.flip(3), crops)
        gain = uniform(generator, count, 0.85, 1.15)[:, None, None, None]
        color = ((crops[:, :3] - 0.5) * gain + 0.5).clamp(0, 1)
        return torch.cat([color, crops[:, 3:]], dim=1), self.labels[places]


@torch.inference_mode()
def harvest(
    material: Material,
    segmenter: Segmenter,
    tokenizer: ImageTokenizer | None,
    count: int,
    seed: int,
    path: Path,
    show: bool,
) -> Harvest:
    """Return the crops of `count` training scenes; a file keeps them.

    Args:
        material: sprites by part.
        segmenter: trained segmenter.
        tokenizer: image tokenizer of the round trips; None means none.
        count: number of scenes.
        seed: seed of the scenes.
        path: file that keeps the crops.
        show: whether a progress bar is shown.
    """
    if path.exists():
        kept = load_file(path)
        return Harvest(kept["crops"], kept["labels"])
    world = Objects(
        material.collection.archive, seed=_SEED + seed, lattice=_LATTICE, lattice_share=_LATTICE_SHARE
    )
    number = {noun: place for place, noun in enumerate(material.nouns)}
    crops, labels = [torch.empty(0, 4, CROP, CROP, dtype=torch.uint8)], []
    for index in tqdm(range(count), desc="scenes", disable=not show, mininterval=10):
        image, scene = world[index]["image"], world.scene(index)
        if tokenizer is not None and index % 2:
            image = tokenizer.to_pixels(tokenizer.from_pixels(image[None]))[0]
        pixels = working_pixels(image.permute(1, 2, 0).numpy())
        found, _, boxes = cut_things(pixels, segmenter)
        for crop, box in zip(found, boxes, strict=True):
            noun = _noun_at(scene, box / pixels.shape[-1])
            if noun is not None:
                crops.append((crop * 255).round().to(torch.uint8)[None])
                labels.append(number.get(noun, len(number)))
    made = Harvest(torch.cat(crops), torch.tensor(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file({"crops": made.crops, "labels": made.labels}, temporary)
    return made


def _noun_at(scene: Scene, box: np.ndarray) -> str | None:
    """Return the noun of the thing whose box a box covers, in fractions of the image; None without one."""
    for thing in scene.things:
        half = thing.size / 2
        low = np.maximum(box[:2], [thing.x - half, thing.y - half])
        high = np.minimum(box[2:], [thing.x + half, thing.y + half])
        inside = float(np.prod(np.clip(high - low, 0, None)))
        # A thing may fill its box in one direction only: the longer side decides.
        fills = max(box[2] - box[0], box[3] - box[1]) >= _LEAST_FILLED * thing.size
        if fills and inside >= _LEAST_INSIDE * float(np.prod(box[2:] - box[:2])):
            return thing.noun
    return None
