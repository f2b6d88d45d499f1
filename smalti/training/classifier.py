"""Training of a classifier over tokens from labelled images: one subfolder a label."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from smalti.common.checks import check_real, check_whole, quoted
from smalti.common.images import to_rgb
from smalti.common.opening import open_image, readable_suffixes
from smalti.common.randomness import stream
from smalti.data.fitting import Fitting
from smalti.errors import SmaltiError
from smalti.model.classifier import ClassifierNetwork
from smalti.vq.tokenizer import ImageTokenizer

MASKED_SHARES = (0.0, 0.5, 0.9)
"""Fractions of masked tokens at which the accuracy on held-out images is measured."""

_LARGEST_RATE = 1000

Report = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A trained network and how well it names held-out images.

    Attributes:
        network: the network.
        labels: names of the labels.
        images: number of images of each label.
        accuracy: share of the held-out images that are named correctly, by the share of masked tokens.
    """

    network: ClassifierNetwork
    labels: tuple[str, ...]
    images: tuple[int, ...]
    accuracy: dict[float, float]


def find_labelled(folder: str | Path) -> dict[str, list[Path]]:
    """Return the image files of each subfolder by its name, both sorted.

    Raises:
        SmaltiError: the folder is missing, or has fewer than two subfolders with two images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SmaltiError(
            f"folder must be one with a subfolder for each label, not {folder}", argument="folder"
        )
    suffixes = readable_suffixes()
    found = {
        path.name: sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    found = {name: files for name, files in found.items() if files}
    if len(found) < 2 or min(map(len, found.values())) < 2:
        raise SmaltiError(
            f"folder must have at least two subfolders with two images each, not {folder}", argument="folder"
        )
    for name in found:
        # A rule's parameters have commas between them, and blanks around them mean nothing.
        if "," in name or name != name.strip():
            raise SmaltiError(
                f"folder must have subfolders whose names hold no comma and end at no blank, not {quoted(name)}",
                argument="folder",
            )
    return found


def encode_labelled(
    tokenizer: ImageTokenizer,
    found: dict[str, list[Path]],
    size: tuple[int, int],
    report: Report | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens, (N, h, w) int64, and the numbers of the labels, (N,) int64, of labelled images.

    Args:
        size: height and width in pixels; images are scaled until they cover it and then cropped.
        report: function that is called with the numbers of images done and of all.

    Raises:
        SmaltiError: a file is no readable image.
    """
    fitting = Fitting.of(size, "center", 0)
    tokens, labels = [], []
    total = sum(map(len, found.values()))
    for label, files in enumerate(found.values()):
        for file in files:
            pixels, _ = fitting.fit(to_rgb(open_image(file)), None, 0)
            image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
            with torch.no_grad():
                tokens.append(tokenizer.from_pixels(image.to(tokenizer.device)).cpu())
            labels.append(label)
            if report is not None:
                report(len(tokens), total)
    return torch.cat(tokens), torch.tensor(labels)


def train_classifier(
    codebook: torch.Tensor,
    tokens: torch.Tensor,
    numbers: torch.Tensor,
    labels: tuple[str, ...],
    *,
    steps: int = 400,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    held_out: float = 0.1,
    seed: int = 0,
    report: Report | None = None,
) -> TrainedClassifier:
    """Train a network to name the label of a grid of which any share is masked.

    The share follows the cosine schedule of the denoiser's training, so that the network knows the grids that sampling
    shows it. Adam's learning rate falls linearly to 0.

    Args:
        codebook: (V, C), vectors of the image tokenizer's codes.
        tokens: (N, h, w) int64.
        numbers: (N,) int64, numbers of the labels.
        labels: names of the labels.
        steps: number of steps.
        batch_size: images of a step.
        learning_rate: first learning rate.
        held_out: fraction of the images that only measure, at least one.
        seed: seed of weights, batches and masks.
        report: function that is called with the numbers of steps done and of all.

    Raises:
        SmaltiError: an argument is out of range.
    """
    check_whole("steps", steps)
    check_whole("batch_size", batch_size)
    check_real("learning_rate", learning_rate, 0, _LARGEST_RATE, above=True)
    check_real("held_out", held_out, 0, 0.9)
    shuffled = torch.randperm(len(tokens), generator=stream(seed, "classifier split"))
    measured = shuffled[: max(1, round(held_out * len(tokens)))]
    learned = shuffled[len(measured) :]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ClassifierNetwork(codebook.shape[1], len(labels))
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    for step in range(steps):
        draw = stream(seed, "classifier step", step)
        chosen = learned[torch.randint(len(learned), (batch_size,), generator=draw)]
        share = torch.cos(math.pi / 2 * torch.rand(batch_size, generator=draw))
        masked = torch.rand(batch_size, *tokens.shape[1:], generator=draw) < share[:, None, None]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / steps)
        found = network(network.codes(codebook)[tokens[chosen].masked_fill(masked, len(codebook))])
        optimizer.zero_grad()
        F.nll_loss(found, numbers[chosen]).backward()
        optimizer.step()
        if report is not None:
            report(step + 1, steps)
    accuracy = {
        share: _accuracy(network, codebook, tokens[measured], numbers[measured], share, seed)
        for share in MASKED_SHARES
    }
    images = tuple(int((numbers == number).sum()) for number in range(len(labels)))
    return TrainedClassifier(network.eval(), labels, images, accuracy)


@torch.no_grad()
def _accuracy(
    network: ClassifierNetwork,
    codebook: torch.Tensor,
    tokens: torch.Tensor,
    numbers: torch.Tensor,
    share: float,
    seed: int,
) -> float:
    """Return the share of grids that are named correctly with a share of their tokens masked."""
    masked = torch.rand(tokens.shape, generator=stream(seed, "classifier accuracy")) < share
    named = network(network.codes(codebook)[tokens.masked_fill(masked, len(codebook))]).argmax(dim=1)
    return float((named == numbers).float().mean())
