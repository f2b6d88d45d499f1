"""The grid of a generation in progress, and what is remembered of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.model.config import DenoiserConfig
from smalti.model.denoiser import Denoiser
from smalti.sampling.view import Step, StepView


class Change(NamedTuple):
    """What a step does to the grid; each (B, n) bool.

    Attributes:
        revealed: masked positions that take the candidate.
        edited: visible positions that take the candidate.
        remasked: visible positions that are masked again.
    """

    revealed: torch.Tensor
    edited: torch.Tensor
    remasked: torch.Tensor


@dataclass(eq=False)
class State:
    """Grids that are being filled. Tensors are (B, n), n = h·w in raster order.

    Attributes:
        grid: (h, w) in tokens.
        mask_code: the id that means unknown.
        tokens: int64, the grid.
        masked: bool, positions that hold the mask id.
        editable: bool, positions that may change.
        confidence: float32, as in `StepView`.
        active: (B,) bool, images that are not finished.
        remaskings: int64, as in `StepView`.
        past: as in `StepView`.
    """

    grid: tuple[int, int]
    mask_code: int
    tokens: torch.Tensor
    masked: torch.Tensor
    editable: torch.Tensor
    confidence: torch.Tensor
    active: torch.Tensor
    remaskings: torch.Tensor
    past: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()

    def view(self, index: int, steps: int, remaining: torch.Tensor, noise: torch.Tensor | None) -> StepView:
        """Return what the rules see before the pass; the arguments are as in `StepView`."""
        zeros = torch.zeros_like(self.confidence)
        return StepView(
            index=index,
            steps=steps,
            grid=self.grid,
            masked=self.masked,
            visible=self.editable & ~self.masked & self.active[:, None],
            tokens=self.tokens,
            candidate=self.tokens,
            probability=zeros,
            current_probability=zeros,
            entropy=zeros,
            noise=noise,
            confidence=self.confidence,
            remaining=remaining,
            past=self.past,
            remaskings=self.remaskings,
        )

    def apply(self, view: StepView, change: Change, *, past: int) -> None:
        """Take the candidates where positions are revealed or edited, and mask others again.

        Args:
            past: how many steps are remembered.
        """
        taken, remasked = change.revealed | change.edited, change.remasked
        self.tokens = torch.where(taken, view.candidate, self.tokens).masked_fill(remasked, self.mask_code)
        self.masked = self.masked & ~change.revealed | remasked
        self.remaskings = self.remaskings + remasked
        self.confidence = torch.where(taken, view.probability, view.confidence).masked_fill(self.masked, 0)
        self.past = ((view.candidate, view.probability), *self.past)[:past]

    def step(self, index: int, steps: int, view: StepView, change: Change, passed: bool) -> Step:
        """Return what the caller sees of a step; `passed` tells whether the denoiser ran."""

        def grids(values: torch.Tensor) -> torch.Tensor:
            return values.unflatten(1, self.grid)

        return Step(
            index=index,
            steps=steps,
            tokens=grids(self.tokens),
            candidate=grids(view.candidate),
            revealed=grids(change.revealed),
            edited=grids(change.edited),
            remasked=grids(change.remasked),
            probability=grids(view.probability),
            active=self.active,
            passed=passed,
        )

    def replace(self, tokens: torch.Tensor) -> None:
        """Take other tokens, (B, n) int64, at editable positions; the head has not been applied to new ones."""
        changed = self.editable & (tokens != self.tokens)
        self.tokens = torch.where(changed, tokens, self.tokens)
        self.masked = self.tokens == self.mask_code
        self.confidence = self.confidence.masked_fill(changed, 0)

    def remask(self, positions: torch.Tensor) -> torch.Tensor:
        """Mask some editable positions of a full grid again; return which, (B, n) bool."""
        self.masked = self.editable & positions
        self.tokens = self.tokens.masked_fill(self.masked, self.mask_code)
        self.confidence = self.confidence.masked_fill(self.masked, 0)
        self.past = ()
        return self.masked


def check_tokens(name: str, tokens: torch.Tensor, shape: tuple[int, ...], config: DenoiserConfig) -> None:
    """Raise SmaltiError unless tokens are a grid of codes and masks of a shape; `name` is that of the argument."""
    if not isinstance(tokens, torch.Tensor) or tuple(tokens.shape) != shape or tokens.dtype != torch.int64:
        found = (
            f"{tuple(tokens.shape)} {tokens.dtype}" if isinstance(tokens, torch.Tensor) else quoted(tokens)
        )
        raise SmaltiError(f"{name} must be {shape} torch.int64, not {found}", argument=name)
    if bool(((tokens < 0) | (tokens >= config.codebook_size) & (tokens != config.mask_code)).any()):
        raise SmaltiError(
            f"{name} must be from 0 to {config.codebook_size - 1} or the mask {config.mask_code}",
            argument=name,
        )


def start_state(
    denoiser: Denoiser,
    shape: tuple[int, int, int],
    tokens: torch.Tensor | None,
    editable: torch.Tensor | None,
) -> State:
    """Return the grids that a generation starts from, checked, on the denoiser's device.

    Args:
        shape: (B, h, w).
        tokens, editable: as for `smalti.sampling.sampler.sample`.

    Raises:
        SmaltiError: a wrong shape or dtype, an id that is no code, or a mask that must not change.
    """
    config, device = denoiser.config, denoiser.device
    if tokens is None:
        tokens = torch.full(shape, config.mask_code, dtype=torch.int64, device=device)
    if editable is None:
        editable = torch.ones(shape, dtype=torch.bool, device=device)
    check_tokens("tokens", tokens, shape, config)
    if tuple(editable.shape) != shape or editable.dtype != torch.bool:
        raise SmaltiError(
            f"editable must be {shape} torch.bool, not {tuple(editable.shape)} {editable.dtype}",
            argument="editable",
        )
    tokens, editable = tokens.to(device).flatten(1), editable.to(device).flatten(1)
    masked = tokens == config.mask_code
    if bool((masked & ~editable).any()):
        raise SmaltiError("editable must be True wherever tokens hold the mask", argument="editable")
    zeros = torch.zeros(masked.shape, dtype=torch.float32, device=device)
    active = torch.ones(shape[0], dtype=torch.bool, device=device)
    never = torch.zeros_like(tokens)
    return State(shape[1:], config.mask_code, tokens, masked, editable, zeros, active, never)


def random_numbers(generators: list[torch.Generator], like: torch.Tensor) -> torch.Tensor:
    """Return uniform numbers in [0, 1), (B, n) float32, each row from its image's generator."""
    rows = [
        torch.rand(like.shape[1], generator=generator, dtype=torch.float32, device=generator.device)
        for generator in generators
    ]
    return torch.stack(rows).to(like.device)
