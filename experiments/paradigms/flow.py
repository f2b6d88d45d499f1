"""Continuous diffusion: flow matching on the image tokenizer's latents (arXiv 2210.02747, 2209.03003).

A latent x₁ is the grid of an image's code vectors, with mean 0 and variance 1 a channel. The model learns the velocity
x₁ − x₀ of the straight line xₜ = (1 − t)·x₀ + t·x₁ from noise x₀. Drawing integrates it from t = 0 to t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from paradigms.backbone import CELL, from_cells, run_backbone, to_cells
from smalti.common.checks import check_choice, check_whole
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.vq.tokenizer import ImageTokenizer, to_uint8

SOLVERS = ("euler", "heun")
_WAVES = 64  # frequencies of the embedding of the time
_SLOWEST, _FASTEST = 1.0, 1000.0  # radians over the whole time


@dataclass(frozen=True)
class FlowSettings:
    """How the velocity is integrated.

    Attributes:
        steps: number of steps.
        solver: "euler", or "heun" with two passes a step, but one in the last.
        shift: how much denser the steps are where there is more noise (arXiv 2403.03206, section 5.3.2).
        guidance_scale: s in (1 + s)·v_cond − s·v_uncond; 0 means no guidance.
        snap: whether the result is replaced by the nearest codes before it is decoded.
    """

    steps: int = 16
    solver: str = "euler"
    shift: float = 1.0
    guidance_scale: float = 1.0
    snap: bool = True

    def __post_init__(self) -> None:
        check_whole("steps", self.steps)
        check_choice("solver", self.solver, SOLVERS)


class Flow(nn.Module):
    """A denoiser's backbone between two linear maps of latents, with the time added to the image's positions.

    Args:
        denoiser: its embedding, head and 2×2 compression are taken away.
        codebook: (V, C), vectors of the codes.
        counts: (V,), occurrences of the codes in the training images, which give the latents' mean and variance.
        generator: draws the starting weights.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self, denoiser: Denoiser, codebook: torch.Tensor, counts: torch.Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        for name in ("gen_embedding", "gen_predictor", "downsample_gen", "upsample_gen"):
            delattr(denoiser, name)
        self.denoiser = denoiser
        share = (counts / counts.sum())[:, None]
        mean = (share * codebook).sum(dim=0)
        deviation = (share * (codebook - mean).square()).sum(dim=0).sqrt()
        self.register_buffer("codebook", codebook.float(), persistent=False)
        self.register_buffer("mean", mean.float()[:, None, None], persistent=False)
        self.register_buffer("deviation", deviation.float()[:, None, None], persistent=False)
        dim, values = denoiser.config.hidden_size, CELL * CELL * codebook.shape[1]
        self.input = nn.Linear(values, dim)
        self.output = nn.Linear(dim, values)
        self.time = nn.Sequential(nn.Linear(2 * _WAVES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.init_weights(generator)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Keep variances in the input and in the time's network; the output starts at zero."""
        for layer in (self.input, self.time[0], self.time[2]):
            layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
            layer.bias.zero_()
        self.output.weight.zero_()
        self.output.bias.zero_()

    def latents(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the latents of tokens: (B, h, w) int64 → (B, C, h, w)."""
        return (self.codebook[tokens].permute(0, 3, 1, 2) - self.mean) / self.deviation

    def vectors(self, latents: torch.Tensor) -> torch.Tensor:
        """Return latents as vectors of the codebook's space, (B, C, h, w)."""
        return latents * self.deviation + self.mean

    def forward(self, x: torch.Tensor, time: torch.Tensor, prompt: PromptBatch) -> torch.Tensor:
        """Return the velocity, (k·B, C, h, w), at x (B, C, h, w) and times (B,); k·B prompts, as in guidance."""
        cells = self.denoiser.config.positions(*x.shape[2:])
        image = self.input(to_cells(x.permute(0, 2, 3, 1)).flatten(2))
        image = image + self.time(waves(time))[:, None]
        image = image.repeat(len(prompt) // len(x), 1, 1)
        hidden = run_backbone(self.denoiser, image, prompt, cells)
        found = self.output(hidden).unflatten(2, (CELL * CELL, -1))
        return from_cells(found, *cells).permute(0, 3, 1, 2)


def waves(time: torch.Tensor) -> torch.Tensor:
    """Embed times from 0 to 1: (B,) → (B, 128), sines and cosines."""
    rates = torch.logspace(math.log10(_SLOWEST), math.log10(_FASTEST), _WAVES, device=time.device)
    angles = time[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def flow_error(
    model: Flow, tokens: torch.Tensor, prompt: PromptBatch, noise: torch.Tensor, time: torch.Tensor
) -> torch.Tensor:
    """Return the squared error of the velocity, (B, C, h, w), at times (B,) on the lines from noise to images."""
    latents = model.latents(tokens)
    mixed = time[:, None, None, None]
    velocity = model((1 - mixed) * noise + mixed * latents, time, prompt)
    return (velocity.float() - (latents - noise)).square()


def times(steps: int, shift: float) -> list[float]:
    """Return the steps + 1 times from 0 to 1; the share of noise σ = 1 − t becomes shift·σ / (1 + (shift − 1)·σ)."""
    shares = [1 - index / steps for index in range(steps + 1)]
    return [1 - shift * share / (1 + (shift - 1) * share) for share in shares]


def integrate(
    field: Callable[[torch.Tensor, float], torch.Tensor], x: torch.Tensor, moments: list[float], solver: str
) -> torch.Tensor:
    """Integrate dx/dt = field(x, t) through the moments.

    Heun's last step is Euler's: it would ask for the velocity at the last moment, where there is no noise left.
    """
    last = len(moments) - 2
    for index, (start, end) in enumerate(zip(moments, moments[1:], strict=False)):
        slope = field(x, start)
        ahead = x + (end - start) * slope
        if solver == "heun" and index < last:
            ahead = x + (end - start) * (slope + field(ahead, end)) / 2
        x = ahead
    return x


@torch.no_grad()
def generate(
    model: Flow,
    prompt: PromptBatch,
    grid: tuple[int, int],
    settings: FlowSettings,
    generators: list[torch.Generator],
) -> torch.Tensor:
    """Draw vectors of the codebook's space, (B, C, h, w), for B prompts. Each image has its own generator."""
    shape, s = (model.codebook.shape[1], *grid), settings.guidance_scale
    noise = torch.stack([torch.randn(shape, generator=one) for one in generators]).to(prompt.ids.device)
    both = PromptBatch.cat(prompt, prompt.unconditional()) if s > 0 else prompt

    def field(x: torch.Tensor, time: float) -> torch.Tensor:
        parts = model(x, x.new_full((len(x),), time), both).split(len(x))
        return (1 + s) * parts[0] - s * parts[1] if s > 0 else parts[0]

    found = integrate(field, noise, times(settings.steps, settings.shift), settings.solver)
    return model.vectors(found)


@torch.no_grad()
def decode(tokenizer: ImageTokenizer, vectors: torch.Tensor, snap: bool) -> torch.Tensor:
    """Decode vectors of the codebook's space, (B, C, h, w) → (B, 3, H, W) uint8, by the nearest codes or directly."""
    if snap:
        return tokenizer.to_pixels(tokenizer.quantize.tokens(vectors))
    return to_uint8(tokenizer.decoder(tokenizer.post_quant_conv(vectors)))
