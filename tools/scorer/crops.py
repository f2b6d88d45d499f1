"""Training crops of the scorer's classifier: sprites drawn in many ways, and what is no thing.

Held-out drawings differ from those of the training in outline, colours and shading, so that crops vary in all three.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scorer import drawing
from scorer.batches import Sprites, recolor, uniform

from smalti.evaluation.suites.objects.crops import MARGIN, on_grey
from smalti.evaluation.suites.objects.edges import CROP

Tensor = torch.Tensor
_CLEAN_SHARE = 0.4  # of the crops; the others are spoiled
_WARP_CELLS, _WARP = 4, 0.12  # cells a side of a warp, and its largest deviation in half sprites
_SHADES = 3  # colours a side of a table of changed colours


def crops(sprites: Sprites, places: np.ndarray, generator: torch.Generator, wild: bool = True) -> Tensor:
    """Return classifier inputs, (B, 4, 40, 40), of sprites by place, each drawn in its own way.

    Args:
        sprites: all sprites.
        places: (B,) which of them.
        generator: source of every draw.
        wild: whether outlines, colours and shading change too, as in training.
    """
    count = len(places)
    canvas = paste_crops(sprites, places, generator, wild)
    kinds = max(count // 8, 1)
    ground = drawing.grounds(kinds, CROP, generator)[torch.arange(count) % kinds]
    drawn = canvas[:, :3] + ground * (1 - canvas[:, 3:])
    whole = torch.rand(count, generator=generator) < _CLEAN_SHARE
    drawn = torch.where(whole[:, None, None, None], drawn, drawing.degrade(drawn, generator, 4))
    masks = spoil_masks(canvas[:, 3:], generator)
    return on_grey(drawn, _cut_out(masks, generator) if wild else masks)


def paste_crops(sprites: Sprites, places: np.ndarray, generator: torch.Generator, wild: bool) -> Tensor:
    """Return sprites as they lie in crops, on transparent canvases, (B, 4, 40, 40)."""
    count = len(places)
    middles, sides = sprites.extent(places)
    scales = uniform(generator, count, 0.9, 1.1) / (MARGIN * sides)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    turns = torch.randn(count, generator=generator) * (0.2 if wild else 0.12)
    squeeze = torch.exp(uniform(generator, count, -0.2, 0.2)) if wild else None
    offset = torch.stack([middles[:, 0] * mirror, middles[:, 1]], dim=1) * scales[:, None]
    jitter = torch.randn(count, 2, generator=generator) * 0.05
    warp = _warps(sides, generator) if wild else None
    small = sprites.small(places)
    pasted = drawing.paste(small, jitter - offset, scales * mirror, turns, CROP, squeeze, warp)
    pasted = recolor(pasted, generator, 0.15 if wild else 0.0)
    return restyle(pasted, generator) if wild else pasted


def _warps(sides: Tensor, generator: torch.Generator) -> Tensor:
    """Return smooth displacements (B, 2, 40, 40), in half sprites, of things with these sides."""
    count = len(sides)
    coarse = torch.randn(count, 2, _WARP_CELLS, _WARP_CELLS, generator=generator)
    strength = uniform(generator, count, 0, _WARP) * sides
    fine = F.interpolate(coarse, (CROP, CROP), mode="bicubic", align_corners=False)
    return fine * strength[:, None, None, None]


def restyle(pasted: Tensor, generator: torch.Generator, outlines: bool = True) -> Tensor:
    """Return things (B, 4, 40, 40) as other hands would draw them: other colours, shading and, if wanted, outlines."""
    count = len(pasted)
    alpha = pasted[:, 3:]
    color = _other_colors((pasted[:, :3] / alpha.clamp_min(0.02)).clamp(0, 1), generator)
    grey = _some(count, 0.07, generator)
    color = torch.where(grey, color.mean(dim=1, keepdim=True), color)
    line = torch.linspace(-1, 1, CROP)
    angle = uniform(generator, count, 0, 6.28)[:, None, None, None]
    ramp = line[None, :] * angle.cos() + line[:, None] * angle.sin()
    depth = uniform(generator, count, 0, 0.35)[:, None, None, None] * _some(count, 0.35, generator)
    color = color * (1 + depth * ramp)
    if not outlines:
        return torch.cat([color.clamp(0, 1) * alpha, alpha], dim=1)
    # A line around a thing, mostly dark, as some styles have it.
    edge = alpha + F.max_pool2d(-alpha, 3, 1, 1)
    strength = uniform(generator, count, 0.4, 1)[:, None, None, None] * _some(count, 0.2, generator)
    ink = uniform(generator, count, 0, 0.4)[:, None, None, None] + 0.6 * _some(count, 0.2, generator)
    color = color + (ink - color) * edge * strength
    return torch.cat([color.clamp(0, 1) * alpha, alpha], dim=1)


def _other_colors(color: Tensor, generator: torch.Generator) -> Tensor:
    """Return colours (B, 3, h, w) after one smooth change of the whole colour space an image."""
    count = len(color)
    strength = torch.where(
        torch.rand(count, generator=generator) < 0.3,
        uniform(generator, count, 0.1, 0.35),
        uniform(generator, count, 0, 0.1),
    )
    table = torch.randn(count, 3, _SHADES, _SHADES, _SHADES, generator=generator)
    table = table * strength[:, None, None, None, None]
    where = (color.permute(0, 2, 3, 1) * 2 - 1)[:, None]
    change = F.grid_sample(table, where, padding_mode="border", align_corners=True)
    return color + change[:, :, 0]


def _some(count: int, share: float, generator: torch.Generator) -> Tensor:
    """Return (count, 1, 1, 1) booleans, of which about a share is true."""
    return (torch.rand(count, generator=generator) < share)[:, None, None, None]


def _cut_out(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Return masks (B, 1, 40, 40), of which some lack a piece, as where a segmentation misses a part."""
    count = len(masks)
    line = torch.linspace(-1, 1, CROP)
    x, y = (uniform(generator, count, -0.8, 0.8)[:, None, None, None] for _ in range(2))
    wide, tall = (uniform(generator, count, 0.1, 0.4)[:, None, None, None] for _ in range(2))
    hole = ((line[None, :] - x).abs() < wide) & ((line[:, None] - y).abs() < tall)
    return torch.where(hole & _some(count, 0.15, generator), 0.0, masks)


def spoil_masks(alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Return masks (B, 1, 40, 40) as a segmentation in coarse cells finds them, from true alphas.

    They end as sharply as those of `smalti.evaluation.suites.objects.detector`: what the classifier sees in training
    must look like what it sees in images.
    """
    spoiled = []
    for part in alpha.split(4):
        cells = int(torch.randint(18, 48, (), generator=generator))
        coarse = F.interpolate(part, (cells, cells), mode="area")
        edge = float(uniform(generator, 1, 0.3, 0.6))
        grain = 0.3 * torch.randn(coarse.shape, generator=generator)
        coarse = ((coarse - edge) * 12 + grain).sigmoid()
        fine = F.interpolate(coarse, (CROP, CROP), mode="bilinear", align_corners=False)
        spoiled.append(((fine - 0.5) * 6 + 0.5).clamp(0, 1))
    return torch.cat(spoiled)


def junk(sprites: Sprites, places: np.ndarray, generator: torch.Generator) -> Tensor:
    """Return classifier inputs, (B, 4, 40, 40), of what is no thing: pieces, mixtures, spots and grounds."""
    whole = paste_crops(sprites, places, generator, True)
    others = paste_crops(sprites, np.roll(places, 1), generator, True)
    line = torch.linspace(-1, 1, CROP)
    made = []
    for index in range(len(places)):
        kind = float(torch.rand((), generator=generator))
        angle = float(uniform(generator, 1, 0, 6.28))
        ramp = line[None, :] * np.cos(angle) + line[:, None] * np.sin(angle)
        side = (ramp > float(uniform(generator, 1, -0.1, 0.2))).float()
        if kind < 0.3:
            made.append(_recentred(whole[index] * side))
        elif kind < 0.55:
            made.append(whole[index] * side + others[index] * (1 - side))
        else:
            made.append(_recentred(_spot(kind > 0.75, generator)))
    canvas = torch.stack(made)
    ground = drawing.grounds(1, CROP, generator)
    drawn = canvas[:, :3] + ground * (1 - canvas[:, 3:])
    return on_grey(drawing.degrade(drawn, generator, 4), spoil_masks(canvas[:, 3:], generator))


def _spot(grainy: bool, generator: torch.Generator) -> Tensor:
    """Return a spot (4, 40, 40) of any outline, with the colours of a ground."""
    line = torch.linspace(-1, 1, CROP)
    blob = (drawing.noise(CROP, generator, 3) > float(uniform(generator, 1, -0.8, 1.0))).float()
    within = float(uniform(generator, 1, 0.2, 0.9))
    mask = blob * ((line[None, :] ** 2 + line[:, None] ** 2) < within).float()
    paint = drawing.degrade(drawing.grounds(1, CROP, generator), generator)[0]
    if grainy:
        paint = paint + 0.15 * drawing.noise(CROP, generator)[None]
    return torch.cat([paint.clamp(0, 1) * mask, mask[None]])


def _recentred(piece: Tensor) -> Tensor:
    """Return a piece (4, s, s), scaled so that it fills its canvas as a whole thing would."""
    seen = piece[3] > 0.3
    if not bool(seen.any()):
        return piece
    size = piece.shape[-1]
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    scale = size / (MARGIN * max(int(right - left), int(bottom - top)))
    middle = torch.tensor([[float(left + right) / size - 1, float(top + bottom) / size - 1]])
    return drawing.paste(piece[None], -middle * scale, torch.tensor([scale]), torch.zeros(1), size)[0]
