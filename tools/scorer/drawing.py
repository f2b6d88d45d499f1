"""Batches of sprites on grounds, with their true masks: what the scorer of objects is trained on.

Half of the grounds are those of the world of objects. All others, the shadows and the flaws are apart from that world,
so that the scorer does not depend on how it draws.
"""

from __future__ import annotations

import io
import math
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from smalti.worlds.objects.grounds import GROUNDS, draw_ground, render_ground

Tensor = torch.Tensor
_WORLD_SHARE = 0.5  # of the grounds


def paste(
    sprites: Tensor,
    centres: Tensor,
    scales: Tensor,
    turns: Tensor,
    size: int,
    squeeze: Tensor | None = None,
    warp: Tensor | None = None,
) -> Tensor:
    """Return sprites on transparent canvases, (B, 4, size, size) with colours multiplied by alpha.

    Args:
        sprites: (B, 4, s, s) floats, colours multiplied by alpha.
        centres: (B, 2) x and y of the middle of a sprite, from −1 to 1.
        scales: (B,) side of the sprite's canvas in sides of the canvas; negative mirrors.
        turns: (B,) angles in radians.
        squeeze: (B,) ratio of width to height; None means 1.
        warp: (B, 2, size, size) displacements in half sprites; None means none.
    """
    squeeze = torch.ones_like(turns) if squeeze is None else squeeze
    cos, sin = turns.cos(), turns.sin()
    wide, tall = scales * squeeze.sqrt(), scales.abs() / squeeze.sqrt()
    matrix = torch.stack([cos / wide, sin / wide, -sin / tall, cos / tall], dim=1).reshape(-1, 2, 2)
    shift = -(matrix @ centres[:, :, None])
    grid = F.affine_grid(
        torch.cat([matrix, shift], dim=2), [len(sprites), 4, size, size], align_corners=False
    )
    if warp is not None:
        grid = grid + warp.permute(0, 2, 3, 1)
    return F.grid_sample(sprites, grid, align_corners=False)


def grounds(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return grounds, (B, 3, size, size) floats: plain, gradient, textured or a landscape."""
    kinds = torch.randint(0, 10, (count,), generator=generator).tolist()
    drawn = []
    for kind in kinds:
        if _rand(generator) < _WORLD_SHARE:
            drawn.append(_world_ground(size, generator))
            continue
        ground = _color(generator)[:, None, None].expand(3, size, size)
        if kind >= 3:
            ground = _gradient(ground, size, generator)
        if kind >= 5:
            ground = _texture(ground, size, generator)
        if kind >= 8:
            ground = _landscape(size, generator)
        drawn.append(ground)
    return torch.stack(drawn).clamp(0, 1)


def _world_ground(size: int, generator: torch.Generator) -> Tensor:
    """Return a ground of the world of objects, a little lighter or darker."""
    random = Random(int(torch.randint(2**31, (), generator=generator)))
    kind = random.choices(list(GROUNDS), list(GROUNDS.values()))[0]
    ground = draw_ground(kind, random, random.uniform(0.1, 0.8), shifted=random.random() < 0.7)
    pixels = torch.from_numpy(np.array(render_ground(ground, size, size)))
    return pixels.permute(2, 0, 1).float() / 255 * random.uniform(0.9, 1.08)


def _rand(generator: torch.Generator, low: float = 0, high: float = 1) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _color(generator: torch.Generator) -> Tensor:
    """Return a colour: mostly quiet, sometimes white, sometimes any."""
    kind = _rand(generator)
    if kind < 0.12:
        return torch.full((3,), _rand(generator, 0.94, 1))
    color = torch.rand(3, generator=generator)
    if kind < 0.75:
        light = _rand(generator, 0.35, 0.95)
        color = light + (color - color.mean()) * _rand(generator, 0, 0.5)
    return color.clamp(0, 1)


def _gradient(ground: Tensor, size: int, generator: torch.Generator) -> Tensor:
    angle = _rand(generator, 0, 2 * math.pi)
    line = torch.linspace(-1, 1, size)
    ramp = line[None, :] * math.cos(angle) + line[:, None] * math.sin(angle)
    if _rand(generator) < 0.3:
        ramp = (line[None, :] ** 2 + line[:, None] ** 2).sqrt() * 1.4 - 1
    other = _color(generator) if _rand(generator) < 0.5 else ground[:, 0, 0] * _rand(generator, 0.6, 1.3)
    share = (ramp[None] + 1) / 2
    return ground * (1 - share) + other[:, None, None] * share


def noise(size: int, generator: torch.Generator, octaves: int = 5) -> Tensor:
    """Return smooth noise, (size, size), with mean 0 and deviation 1."""
    total = torch.zeros(1, 1, size, size)
    first = int(_rand(generator, 0, 3))
    for octave in range(first, first + octaves):
        cells = min(2 ** (octave + 1), size)
        coarse = torch.randn(1, 1, cells, cells, generator=generator)
        total += F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False) * 0.6**octave
    flat = total[0, 0]
    return (flat - flat.mean()) / flat.std().clamp_min(1e-6)


def _texture(ground: Tensor, size: int, generator: torch.Generator) -> Tensor:
    kind, depth = _rand(generator), _rand(generator, 0.01, 0.1)
    if kind < 0.6:
        pattern = noise(size, generator)
    else:
        angle, period = _rand(generator, 0, math.pi), _rand(generator, 6, 60)
        line = torch.arange(size, dtype=torch.float32)
        along = line[None, :] * math.cos(angle) + line[:, None] * math.sin(angle)
        across = line[:, None] * math.cos(angle) - line[None, :] * math.sin(angle)
        pattern = (along * 2 * math.pi / period).sin()
        if kind > 0.8:
            pattern = pattern.sign() * (across * 2 * math.pi / period).sin().sign()
        pattern = pattern + 0.3 * noise(size, generator)
    tint = 1 + 0.3 * torch.randn(3, generator=generator)
    return ground + depth * pattern[None] * tint[:, None, None]


_LOWER = (
    (0.36, 0.6, 0.25),
    (0.85, 0.75, 0.5),
    (0.93, 0.95, 0.98),
    (0.25, 0.5, 0.75),
    (0.5, 0.5, 0.52),
    (0.5, 0.36, 0.22),
)


def _landscape(size: int, generator: torch.Generator) -> Tensor:
    """Return sky above grass, sand, snow, sea, a street or earth, with soft clouds and hills."""
    rows = torch.linspace(0, 1, size)[:, None]
    columns = torch.linspace(0, 1, size)[None, :]
    sky = torch.tensor([0.5, 0.75, 0.95]) + 0.12 * torch.randn(3, generator=generator)
    upper = sky[:, None, None] + (rows * _rand(generator, 0, 0.35))[None].expand(3, size, size)
    if _rand(generator) < 0.6:
        clouds = (noise(size, generator, 4) - 0.4).clamp(0, 1) * _rand(generator, 0.2, 0.7)
        upper = upper + clouds[None] * (1 - upper)
    lower = torch.tensor(_LOWER[int(_rand(generator, 0, len(_LOWER)))]) + 0.06 * torch.randn(
        3, generator=generator
    )
    field = lower[:, None, None] * (1 + _rand(generator, 0.02, 0.12) * noise(size, generator, 6))[None]
    horizon = _rand(generator, 0.3, 0.8)
    if _rand(generator) < 0.5:
        wave = columns * _rand(generator, 3, 12) + _rand(generator, 0, 6)
        hill = horizon - 0.02 - _rand(generator, 0.02, 0.12) * (1 + wave.sin())
        behind = (lower * _rand(generator, 0.6, 1.1) + 0.1 * _rand(generator))[:, None, None]
        upper = torch.where((rows > hill)[None], behind, upper)
    edge = ((rows - horizon) * size / _rand(generator, 1, 6)).sigmoid()[None]
    return upper * (1 - edge) + field * edge


def add_shadow(ground: Tensor, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Return a ground (3, s, s) with the soft shadow of a thing, whose alpha is (s, s)."""
    size = alpha.shape[-1]
    kind = _rand(generator)
    if kind < 0.3:
        return ground
    strength, blur = _rand(generator, 0.1, 0.5), _rand(generator, 1, 8)
    rows, columns = (alpha > 0.5).any(1).nonzero(), (alpha > 0.5).any(0).nonzero()
    if not len(rows):
        return ground
    if kind < 0.65:
        left, right, low = float(columns[0]), float(columns[-1]), float(rows[-1])
        x = (torch.arange(size)[None, :] - (left + right) / 2) / max(
            (right - left) * _rand(generator, 0.35, 0.6), 2
        )
        y = (torch.arange(size)[:, None] - low) / max((right - left) * _rand(generator, 0.06, 0.18), 2)
        shade = (1.2 - (x**2 + y**2).sqrt()).clamp(0, 1)
    else:
        reach = 0.08 * size
        shift = (round(_rand(generator, -reach / 2, reach)), round(_rand(generator, -reach, reach)))
        moved = torch.zeros_like(alpha)
        down, across = shift
        moved[max(down, 0) : size + min(down, 0), max(across, 0) : size + min(across, 0)] = alpha[
            max(-down, 0) : size + min(-down, 0), max(-across, 0) : size + min(-across, 0)
        ]
        # A blur of a quarter's side looks the same and is sixteen times faster.
        small = soften(F.avg_pool2d(moved[None, None], 4), max(blur / 4, 0.3))
        shade = F.interpolate(small, (size, size), mode="bilinear", align_corners=False)[0, 0]
    return ground * (1 - strength * shade)


def soften(images: Tensor, sigma: float) -> Tensor:
    """Return (B, C, H, W) images after a Gaussian blur."""
    radius = max(1, math.ceil(2.5 * sigma))
    line = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(line**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    padded = F.pad(images, [radius] * 4, mode="replicate")
    across = F.conv2d(padded, kernel[:, :, None, :], groups=images.shape[1])
    return F.conv2d(across, kernel[:, :, :, None], groups=images.shape[1])


def degrade(images: Tensor, generator: torch.Generator, together: int = 1) -> Tensor:
    """Return images (B, 3, H, W), most of them blurred, noisy, coarse, compressed or a little off in colour.

    Neighbours, `together` of them, are spoiled in one way, which is faster.
    """
    spoiled = []
    for one in images.split(together):
        if _rand(generator) < 0.25:
            spoiled.append(one)
            continue
        if _rand(generator) < 0.45:
            one = soften(one, _rand(generator, 0.4, 1.6))
        if _rand(generator) < 0.2:
            side = round(one.shape[-1] * _rand(generator, 0.35, 0.8))
            small = F.interpolate(one, (side, side), mode="area")
            one = F.interpolate(small, one.shape[-2:], mode="bilinear", align_corners=False)
        if _rand(generator) < 0.4:
            grain = torch.randn(one.shape, generator=generator) * _rand(generator, 0.005, 0.05)
            one = one + (soften(grain, 0.7) if _rand(generator) < 0.5 else grain)
        if _rand(generator) < 0.4:
            one = one * (1 + 0.06 * torch.randn(len(one), 3, 1, 1, generator=generator))
            one = one + 0.03 * torch.randn(len(one), 3, 1, 1, generator=generator)
        if _rand(generator) < 0.2:
            quality = round(_rand(generator, 25, 85))
            one = torch.stack([compress(image.clamp(0, 1), quality) for image in one])
        spoiled.append(one)
    return torch.cat(spoiled).clamp(0, 1)


def compress(image: Tensor, quality: int) -> Tensor:
    """Return an image (3, H, W) after JPEG."""
    pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        return torch.from_numpy(np.array(opened)).permute(2, 0, 1).float() / 255
