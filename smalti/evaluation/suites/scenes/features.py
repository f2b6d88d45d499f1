"""Features of images from a small classifier of scenes, for distances between sets of images.

A convolutional network is trained to name the content of scenes. Its weights are part of the package, so that distances
are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from smalti.common.files import atomic_path
from smalti.errors import SmaltiError
from smalti.worlds.scenes.palette import BACKGROUNDS, COLORS
from smalti.worlds.scenes.scene import SIZES, Scene
from smalti.worlds.scenes.shapes import SHAPES

WEIGHTS = Path(__file__).parents[3] / "models" / "classifier.safetensors"

DIMENSION = 128
"""Number of features of an image."""

SIDE = 128
"""Side in pixels to which images are averaged down before the network."""

SEVERAL = {"shapes": len(SHAPES), "colors": len(COLORS), "pairs": len(SHAPES) * len(COLORS)}
"""Properties of which a scene may show several values, with the number of values."""

ONE_OF = {"count": len(SIZES), "background": len(BACKGROUNDS)}
"""Properties of which a scene has one value, with the number of values: its number of objects and its background."""

_WIDTHS = (16, 32, 64, 128, 128)
_STRIDES = (2, 2, 2, 2, 1)


class SceneClassifier(nn.Module):
    """Five convolutions, the mean and the maximum of each channel, a linear layer to the features, linear heads.

    The maximum shows that something is present, the mean how much of it.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width, stride in zip((3, *_WIDTHS), _WIDTHS, _STRIDES, strict=False):
            side = 5 if before == 3 else 3
            layers += [
                nn.Conv2d(before, width, side, stride, padding=side // 2, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
        self.convolutions = nn.Sequential(*layers)
        self.to_features = nn.Linear(2 * _WIDTHS[-1], DIMENSION)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(DIMENSION, size) for name, size in (SEVERAL | ONE_OF).items()}
        )

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features, none below 0: (B, 3, H, W) uint8 of any size → (B, `DIMENSION`)."""
        x = images.to(self.to_features.weight.device).float() / 127.5 - 1
        if x.shape[-2:] != (SIDE, SIDE):
            x = F.interpolate(x, (SIDE, SIDE), mode="area")
        x = self.convolutions(x.contiguous(memory_format=torch.channels_last))
        return F.relu(self.to_features(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return logits, (B, n) for every entry of `SEVERAL` and `ONE_OF`, of images (B, 3, H, W) uint8."""
        features = self.features(images)
        return {name: head(features) for name, head in self.heads.items()}


def targets(scene: Scene) -> dict[str, torch.Tensor]:
    """Return the classifier's targets: (n,) float32 of 0 and 1 for `SEVERAL`, () int64 for `ONE_OF`.

    The target of the number of objects is that number less one.
    """
    several = {name: torch.zeros(size) for name, size in SEVERAL.items()}
    shapes, colors = list(SHAPES), list(COLORS)
    for item in scene.objects:
        shape, color = shapes.index(item.shape), colors.index(item.color)
        several["shapes"][shape] = several["colors"][color] = 1
        several["pairs"][shape * len(colors) + color] = 1
    count, background = len(scene.objects) - 1, list(BACKGROUNDS).index(scene.background)
    return several | {"count": torch.tensor(count), "background": torch.tensor(background)}


def load_classifier(path: str | Path = WEIGHTS) -> SceneClassifier:
    """Read the trained classifier, in float32 on the CPU.

    Raises:
        SmaltiError: the file is missing or does not hold the classifier's weights.
    """
    classifier = SceneClassifier()
    try:
        weights = load_file(path)
        classifier.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise SmaltiError(f"{path} does not hold the classifier's weights: {reason}") from error
    return classifier.eval()


def save_classifier(classifier: SceneClassifier, path: str | Path) -> None:
    """Write the weights in float16, whole or not at all.

    Raises:
        SmaltiError: the file cannot be written.
    """
    weights = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in classifier.state_dict().items()
    }
    with atomic_path(path) as temporary:
        save_file(weights, temporary)


@torch.inference_mode()
def features(classifier: SceneClassifier, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the features of many images, a batch at a time.

    Args:
        classifier: network.
        batches: batches of images, (B, 3, H, W) uint8 each.

    Returns:
        Features of all images, (N, `DIMENSION`) float32 on the CPU.

    Raises:
        SmaltiError: there are no images, or a batch has another dtype or shape.
    """
    found = []
    for images in batches:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise SmaltiError(
                f"batches must be uint8 (B, 3, H, W), not {images.dtype} {tuple(images.shape)}",
                argument="batches",
            )
        found.append(classifier.features(images).cpu())
    if not found:
        raise SmaltiError("batches must not be empty: there are no images", argument="batches")
    return torch.cat(found)
