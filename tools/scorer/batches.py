"""Training batches of the scorer of objects: scenes with masks and centres."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scorer import drawing

from smalti.common.files import atomic_path
from smalti.evaluation.suites.objects.networks import FINE, STRIDE
from smalti.worlds.objects.archive import SIDE, SpriteArchive

Tensor = torch.Tensor
SCENE = 256
_LEAST_THING = 40  # smallest longer side of a thing in a scene, in pixels
_LARGEST_THING = 0.85  # largest longer side of a lone thing, in sides of the image


class Sprites:
    """All sprites of an archive: half-size copies in memory, and the boxes of what is visible.

    Args:
        archive: the archive.
        kept: file that keeps the copies of an archive of this size; None means none.
    """

    def __init__(self, archive: SpriteArchive, kept: Path | None = None) -> None:
        self._archive = archive
        tensors = _read_halves(kept, archive)
        if tensors is None:
            tensors = _make_halves(archive)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(kept) as temporary:
                    save_file(tensors, temporary, {"archive": str(archive.path.stat().st_size)})
        self._halves = tensors["halves"]
        self.boxes = tensors["boxes"].numpy()
        self.usable = self.boxes[:, 2] > self.boxes[:, 0]

    def __getitem__(self, places: Sequence[int] | np.ndarray) -> Tensor:
        """Return (B, 4, 128, 128) floats, with colours multiplied by alpha."""
        images = np.stack([self._archive.image(int(number)) for number in np.asarray(places)])
        rgba = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)

    def small(self, places: Sequence[int] | np.ndarray) -> Tensor:
        """Return (B, 4, 64, 64) floats, with colours multiplied by alpha."""
        return self._halves[torch.from_numpy(np.asarray(places))].float() / 255

    def extent(self, places: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the middles (B, 2) from −1 to 1, and the longer sides (B,) in sprites, of what is visible."""
        boxes = torch.from_numpy(self.boxes[np.asarray(places)]) / SIDE
        return boxes[:, :2] + boxes[:, 2:] - 1, (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)


def _read_halves(kept: Path | None, archive: SpriteArchive) -> dict[str, Tensor] | None:
    """Return what a file keeps of an archive; None if it is missing or keeps another archive."""
    if kept is None or not kept.exists():
        return None
    with safe_open(kept, "pt") as file:
        if file.metadata() != {"archive": str(archive.path.stat().st_size)}:
            return None
    return load_file(kept)


def _make_halves(archive: SpriteArchive) -> dict[str, Tensor]:
    """Return copies, (n, 4, 64, 64) uint8 with colours multiplied by alpha, and boxes, (n, 4) float32 in pixels."""
    halves = torch.empty(len(archive), 4, SIDE // 2, SIDE // 2, dtype=torch.uint8)
    boxes = torch.zeros(len(archive), 4)
    for number in range(len(archive)):
        image = archive.image(number)
        rgba = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        whole = torch.cat([rgba[:3] * rgba[3:] / 255, rgba[3:]])
        halves[number] = F.avg_pool2d(whole[None], 2)[0].round().to(torch.uint8)
        seen = image[..., 3] > 60
        if seen.any():
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            boxes[number] = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return {"halves": halves, "boxes": boxes}


def uniform(generator: torch.Generator, count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def recolor(sprites: Tensor, generator: torch.Generator, strong: float) -> Tensor:
    """Return sprites with other light and colours; a share `strong` of them with quite other hues."""
    count = len(sprites)
    rgb, alpha = sprites[:, :3], sprites[:, 3:]
    grey = rgb.mean(dim=1, keepdim=True)
    saturation = uniform(generator, count, 0.7, 1.3)[:, None, None, None]
    rgb = grey + (rgb - grey) * saturation
    turn = uniform(generator, count, -0.12, 0.12)
    wild = torch.rand(count, generator=generator) < strong
    turn = torch.where(wild, uniform(generator, count, -3.1, 3.1), turn)
    # A turn about the grey axis keeps lightness and changes the hue.
    cos, sin = turn.cos(), turn.sin()
    third, root = (1 - cos) / 3, sin / 3**0.5
    matrix = torch.stack(
        [cos + third, third - root, third + root, third + root, cos + third, third - root]
        + [third - root, third + root, cos + third],
        dim=1,
    ).reshape(count, 3, 3)
    rgb = torch.einsum("bij,bjhw->bihw", matrix, rgb)
    gain = uniform(generator, count, 0.75, 1.2)[:, None, None, None]
    lift = uniform(generator, count, -0.06, 0.08)[:, None, None, None]
    rgb = torch.minimum((rgb * gain + lift * alpha).clamp_min(0), alpha)
    return torch.cat([rgb, alpha], dim=1)


def scenes(
    sprites: Sprites, places: np.ndarray, generator: torch.Generator, size: int = SCENE
) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (B, 3, s, s), the share of each fine cell that things cover, and the offsets to their centres.

    Args:
        sprites: sprites to draw.
        places: (B, n) sprites of each scene; a negative number leaves one out.
        generator: source of every draw.
        size: side s of the images in pixels. Things keep their sizes, as far as there is room.

    Returns:
        Images; cover (B, 1, s/2, s/2) from 0 to 1; offsets (B, 2, s/4, s/4) in cells.
    """
    cells = size // STRIDE
    images = drawing.grounds(len(places), size, generator)
    offsets = torch.zeros(len(places), 2, cells, cells)
    cover = torch.zeros(len(places), 1, size // FINE, size // FINE)
    for index, row in enumerate(places):
        chosen = row[row >= 0]
        if not len(chosen):
            continue
        layers = _place(sprites, chosen, generator, size)
        image, below = images[index], torch.zeros(len(chosen), size, size)
        for number, layer in enumerate(layers):
            image = drawing.add_shadow(image, layer[3], generator)
            image = layer[:3] + image * (1 - layer[3])
            below = below * (1 - layer[3])
            below[number] = layer[3]
        images[index] = image
        cover[index], offsets[index] = _targets(below)
    return drawing.degrade(images.clamp(0, 1), generator), cover, offsets


def _place(sprites: Sprites, chosen: np.ndarray, generator: torch.Generator, size: int) -> Tensor:
    """Return the layers (n, 4, s, s) of things that lie apart, or touch a little."""
    count = len(chosen)
    middles, sides = sprites.extent(chosen)
    boxes = torch.from_numpy(sprites.boxes[chosen])
    shape = (boxes[:, 2:] - boxes[:, :2]) / (sides[:, None] * SIDE)
    largest = size * (_LARGEST_THING if count == 1 else 1.13 / count**0.62)
    low = torch.tensor(float(_LEAST_THING)).log()
    longer = torch.exp(uniform(generator, count, float(low), float(np.log(largest))))
    if (
        count == 1 and float(torch.rand((), generator=generator)) < 0.6
    ):  # large things fall into pieces easily
        longer = uniform(generator, 1, 0.4 * size, largest)
    if float(torch.rand((), generator=generator)) < 0.4:  # things that are counted have about one size
        longer = longer.max() * uniform(generator, count, 0.85, 1.0)
    gap = (
        float(uniform(generator, 1, -0.04, 0.03))
        if float(torch.rand((), generator=generator)) < 0.7
        else 0.06
    )
    spots: list[Tensor] = []
    for tries in range(60):
        shrink = 0.97**tries
        spots = []
        for number in range(count):
            half = longer[number] * shrink * shape[number] / size / 2
            spot = half + torch.rand(2, generator=generator) * (1 - 2 * half).clamp_min(0)
            free = all(bool(((spot - other[:2]).abs() > half + other[2:] + gap).any()) for other in spots)
            if not free:
                break
            spots.append(torch.cat([spot, half]))
        if len(spots) == count:
            break
    chosen, longer, sides, middles = (
        part[: len(spots)] for part in (chosen, longer * shrink, sides, middles)
    )
    scales = longer / size / sides
    mirror = torch.where(torch.rand(len(spots), generator=generator) < 0.5, -1.0, 1.0)
    offset = torch.stack([middles[:, 0] * mirror, middles[:, 1]], dim=1) * scales[:, None]
    centres = torch.stack(spots)[:, :2] * 2 - 1 - offset
    turns = torch.randn(len(spots), generator=generator) * 0.1
    layers = recolor(sprites[chosen], generator, 0.2)
    # Small things are averaged down first, so that no pixels are skipped.
    halved = F.interpolate(F.avg_pool2d(layers, 2), SIDE, mode="nearest")
    layers = torch.where((longer < 76)[:, None, None, None], halved, layers)
    return drawing.paste(layers, centres, scales * mirror, turns, size)


def _targets(alphas: Tensor) -> tuple[Tensor, Tensor]:
    """Return cover (1, 2h, 2w) and offsets (2, h, w) from the visible alphas (n, H, W) of the things in one scene."""
    shares = F.avg_pool2d(alphas[None], STRIDE)[0]
    cells = shares.shape[-1]
    line = torch.arange(cells, dtype=torch.float32)
    total = shares.sum(dim=(1, 2)).clamp_min(1e-6)
    x = (shares.sum(dim=1) * line).sum(dim=1) / total
    y = (shares.sum(dim=2) * line).sum(dim=1) / total
    owner = shares.argmax(dim=0)
    offsets = torch.stack([x[owner] - line[None, :], y[owner] - line[:, None]])
    return F.avg_pool2d(alphas.sum(dim=0, keepdim=True), FINE).clamp(0, 1), offsets
