"""Masking rules: which tokens of a training image are masked.

Each image of a batch gets one rule of a `Mixture`, drawn by the rules' shares. A new rule is a frozen dataclass with a
`mask` and a `check`, and an entry in `MASKINGS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from smalti.common.checks import check_choice, check_real
from smalti.common.low_discrepancy import halton_order, stratified_order
from smalti.common.randomness import Draws
from smalti.common.rules import parse_rule
from smalti.errors import SmaltiError

_TOLERANCE = 1e-6  # for the sum of shares, which people write as decimals


class Masked(NamedTuple):
    """The masks of a batch.

    Attributes:
        masked: (B, h, w) bool on the CPU, True where a token is masked. At least one in every grid.
        flip_scale: (B,) float on the CPU, factor of each image's flip ratio.
    """

    masked: torch.Tensor
    flip_scale: torch.Tensor


@dataclass(frozen=True, eq=False)
class MaskingContext:
    """Statistics of the data that rules may use.

    Attributes:
        frequency: (V,) float, fraction of the data's tokens that have each code; None if unknown.
    """

    frequency: torch.Tensor | None = None


class Masking(Protocol):
    """A rule that masks tokens of training images."""

    def check(self, height: int, width: int) -> None:
        """Raise SmaltiError if the rule cannot mask a grid of this size, in tokens."""

    def mask(self, tokens: torch.Tensor, context: MaskingContext, draws: Draws) -> Masked:
        """Mask true grids of tokens (B, h, w) int64 on any device; every number comes from `draws`, B items."""


def cosine_mask_ratio(uniform: torch.Tensor, power: float = 1.0) -> torch.Tensor:
    """Return mask ratios r = cos(π/2 · uᵏ) of u ~ U(0, 1) (k = 1: MaskGIT, arXiv 2202.04200, eq. 3).

    A power k above 1 draws high ratios more often. At high ratios the prompt decides; once a few tokens of every
    object are visible, the other tokens follow from them. A ratio exceeds 0.95 for 20 % of the images at k = 1, for
    45 % at k = 2 and for 59 % at k = 3.
    """
    return torch.cos(math.pi / 2 * uniform**power)


@dataclass(frozen=True)
class UniformMasking:
    """Mask random positions; the mask ratio follows `cosine_mask_ratio` (MaskGIT, arXiv 2202.04200).

    Attributes:
        power: exponent k of `cosine_mask_ratio`, above 0; above 1 draws high mask ratios more often.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        check_real("power", self.power, above=True)

    def check(self, height: int, width: int) -> None:
        """Accept any grid."""

    def mask(self, tokens: torch.Tensor, context: MaskingContext, draws: Draws) -> Masked:
        """Mask ⌈r · n⌉ of n positions, at least one."""
        B, n = tokens.flatten(1).shape
        ratio = cosine_mask_ratio(draws.uniform(), self.power)
        count = (ratio * n).ceil().clamp(1, n)
        return Masked(_lowest(draws.uniform(n), count, tokens.shape), torch.ones(B))


@dataclass(frozen=True)
class OrderedMasking:
    """Keep the first tokens of a fixed order visible, as a sampler with that order does.

    Training then sees the grids that sampling produces. The number of visible tokens is log-uniform from none to all,
    similar to the steps of a shifted budget. The flip ratio is scaled by the visible fraction. When few tokens are
    visible, a wrong one cannot be recognised, and the model would learn to distrust correct tokens.

    Attributes:
        order: name of the order, "halton" or "stratified". The stratified one needs a square grid whose side is a
            power of two.
    """

    order: str = "halton"

    def __post_init__(self) -> None:
        check_choice("order", self.order, _ORDERS)

    def check(self, height: int, width: int) -> None:
        """Raise SmaltiError unless the order covers a grid of this size."""
        if self.order == "stratified" and (height != width or height & (height - 1)):
            raise SmaltiError(
                f"masking 'ordered:order=stratified' needs a square grid whose side is a power of two, "
                f"not {height}×{width}",
                argument="masking",
            )

    def indices(self, height: int, width: int) -> tuple[int, ...]:
        """Return the raster indices of a grid, the first to be revealed first."""
        self.check(height, width)
        return _ORDERS[self.order](height, width)

    def mask(self, tokens: torch.Tensor, context: MaskingContext, draws: Draws) -> Masked:
        """Mask all but the first k positions of the order, k = ⌊(n + 1)ᵘ − 1⌋ of n for u ~ U(0, 1)."""
        B, height, width = tokens.shape
        n = height * width
        visible = ((n + 1) ** draws.uniform() - 1).floor().clamp(max=n - 1)
        place = torch.empty(n)
        place[torch.tensor(self.indices(height, width))] = torch.arange(n, dtype=torch.float32)
        return Masked((place >= visible[:, None]).reshape(tokens.shape), visible / n)


@dataclass(frozen=True)
class RareFirstMasking:
    """Mask tokens of rare codes first, as DiffusionBERT's noise schedule does (arXiv 2211.15029, section 3.2).

    Plain areas stay visible. They carry little information, so the model must use the prompt.
    """

    def check(self, height: int, width: int) -> None:
        """Accept any grid."""

    def mask(self, tokens: torch.Tensor, context: MaskingContext, draws: Draws) -> Masked:
        """Mask up to half of the positions, drawn with odds of one over the frequency of their code."""
        if context.frequency is None:
            raise SmaltiError("masking 'rare_first' needs the frequency of the codes", argument="masking")
        B, n = tokens.flatten(1).shape
        count = (draws.uniform() * n / 2).ceil().clamp(1, n)
        # The smallest of exponential variables whose rates are the odds are a draw without replacement.
        odds = 1 / context.frequency[tokens.flatten(1).cpu()].clamp_min(1e-12)
        keys = -torch.log1p(-draws.uniform(n)) / odds
        return Masked(_lowest(keys, count, tokens.shape), torch.ones(B))


@dataclass(frozen=True)
class BoxMasking:
    """Mask a box anywhere in the image, as edits and inpainting do.

    Otherwise a masked region of an object's size would tell the model that an object was there.
    """

    def check(self, height: int, width: int) -> None:
        """Accept any grid."""

    def mask(self, tokens: torch.Tensor, context: MaskingContext, draws: Draws) -> Masked:
        """Mask a box whose sides are 1 to half of the grid's."""
        B, height, width = tokens.shape
        rows, columns = _spans(height, draws), _spans(width, draws)
        return Masked(rows[:, :, None] & columns[:, None, :], torch.ones(B))


MASKINGS: dict[str, type[Masking]] = {
    "uniform": UniformMasking,
    "ordered": OrderedMasking,
    "rare_first": RareFirstMasking,
    "box": BoxMasking,
}


@dataclass(frozen=True)
class Mixture:
    """Several masking rules; each image gets exactly one. A mixture is itself a `Masking`.

    Attributes:
        parts: pairs of a share and a rule. The shares add up to 1.

    Example:
        >>> Mixture.parse({"ordered:order=halton": 0.75, "uniform": 0.25}).parts[0]
        (0.75, OrderedMasking(order='halton'))
    """

    parts: tuple[tuple[float, Masking], ...]

    def __post_init__(self) -> None:
        for share, _ in self.parts:
            check_real("masking share", share, 0, 1)
        total = sum(share for share, _ in self.parts)
        if abs(total - 1) > _TOLERANCE:
            raise SmaltiError(f"masking shares must add up to 1, not {total:g}", argument="masking")

    @classmethod
    def parse(cls, shares: Mapping[str, float]) -> Mixture:
        """Build a mixture from rules as strings and their shares.

        Raises:
            SmaltiError: an unknown rule or parameter, or shares that do not add up to 1.
        """
        return cls(tuple((share, parse_rule("masking", text, MASKINGS)) for text, share in shares.items()))

    def check(self, height: int, width: int) -> None:
        """Raise SmaltiError if a rule cannot mask a grid of this size."""
        for _, rule in self.parts:
            rule.check(height, width)

    def mask(self, tokens: torch.Tensor, context: MaskingContext, draws: Draws) -> Masked:
        """Draw a rule for every image and mask the image with it."""
        shares = torch.tensor([float(share) for share, _ in self.parts]).cumsum(0)
        choice = torch.searchsorted(shares[:-1], draws.uniform(), right=True)
        masked, flip_scale = torch.empty(tokens.shape, dtype=torch.bool), torch.empty(len(tokens))
        for number, (_, rule) in enumerate(self.parts):
            rows = (choice == number).nonzero()[:, 0]
            if len(rows):
                part = tokens[rows.to(tokens.device)]
                masked[rows], flip_scale[rows] = rule.mask(part, context, draws.select(rows.tolist()))
        return Masked(masked, flip_scale)

    def sampling_order(self, height: int, width: int) -> tuple[int, ...]:
        """Return the raster indices of the first ordered rule, or () if the mixture has none."""
        ordered = [rule for _, rule in self.parts if isinstance(rule, OrderedMasking)]
        return ordered[0].indices(height, width) if ordered else ()


def _stratified(height: int, width: int) -> tuple[int, ...]:
    return stratified_order(height)


_ORDERS: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "halton": halton_order,
    "stratified": _stratified,
}


def _lowest(keys: torch.Tensor, count: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return a mask of `shape` that is True at the `count` (B,) lowest of the keys (B, n)."""
    chosen = torch.arange(keys.shape[1]) < count[:, None]
    return torch.empty_like(chosen).scatter_(1, keys.argsort(dim=1), chosen).reshape(shape)


def _spans(side: int, draws: Draws) -> torch.Tensor:
    """Return (B, side) bool, True on an interval of length 1 to half the side, anywhere on it."""
    length, start = draws.uniform(2).unbind(dim=1)
    length = 1 + (length * max(1, side // 2)).floor()
    start = (start * (side - length + 1)).floor()
    place = torch.arange(side)
    return (place >= start[:, None]) & (place < (start + length)[:, None])
