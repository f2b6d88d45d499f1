"""Orders: which masked positions a step reveals, those of the highest priority."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from smalti.common.checks import check_real, check_whole
from smalti.common.low_discrepancy import halton_order, stratified_order
from smalti.errors import SmaltiError
from smalti.sampling.coherence import CoherentOrder
from smalti.sampling.kinds import Order
from smalti.sampling.ranking import ranks
from smalti.sampling.stability import StableOrder
from smalti.sampling.temperatures import temperature_factors
from smalti.sampling.view import StepView


@dataclass(frozen=True)
class ConfidenceOrder(Order):
    """Reveal the most probable candidates first, by log p(x₀) + temperature·Gumbel noise.

    Attributes:
        temperature: strength of the noise; 0 is none.
        schedule: temperature schedule, such as "cosine".
    """

    temperature: float = 0.0
    schedule: str = "constant"
    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_noise(self.temperature, self.schedule)

    def priority(self, view: StepView) -> torch.Tensor:
        """Return log p(x₀) + temperature·Gumbel noise, (B, n)."""
        return _perturbed(_log(view.probability), self.temperature, self.schedule, view)


@dataclass(frozen=True)
class DrawOrder(Order):
    """Draw positions without replacement from softmax(p(x₀) / temperature) over the masked ones.

    The largest of p / temperature + Gumbel noise are distributed as such a draw (arXiv 1903.06059). At temperature 0
    the most probable come first.

    Attributes:
        temperature: temperature of the softmax.
    """

    temperature: float = 1.0
    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_real("temperature", self.temperature)

    def priority(self, view: StepView) -> torch.Tensor:
        """Return p(x₀) / temperature + Gumbel noise, (B, n)."""
        if self.temperature < 1e-6:
            return view.probability
        return view.probability / self.temperature + _gumbel(view.noise)


@dataclass(frozen=True)
class HistoryOrder(Order):
    """Reveal candidates first that stay the same over the last steps.

    With x_j and p_j a position's candidate and its probability j steps ago, the confidence is the mean over the last
    `window` steps, this one included, of p_j·[x_j = x₀]. A candidate that has just changed counts for less, however
    probable it is now. "Time Is a Feature" (arXiv 2508.09138) votes over the answers of steps; this formula is a
    Smalti extension.

    Attributes:
        window: number of steps, this one included; 1 is the confidence order.
        temperature: strength of the noise; 0 is none.
        schedule: temperature schedule, such as "cosine".
    """

    window: int = 4
    temperature: float = 0.0
    schedule: str = "constant"
    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole("window", self.window)
        _check_noise(self.temperature, self.schedule)

    @property
    def past(self) -> int:
        """How many earlier steps the rule reads."""
        return self.window - 1

    def priority(self, view: StepView) -> torch.Tensor:
        """Return the log of the mean of p_j·[x_j = x₀] + temperature·Gumbel noise, (B, n)."""
        total = view.probability
        for candidate, probability in view.past:
            total = total + probability * (candidate == view.candidate)
        return _perturbed(_log(total / (1 + len(view.past))), self.temperature, self.schedule, view)


@dataclass(frozen=True)
class StratifiedOrder(Order):
    """Follow a fixed low-discrepancy order of a square grid whose side is a power of two.

    Attributes:
        seed: seed of the order (docs/format.md, section 5).
    """

    seed: int = 42
    fixed: ClassVar[bool] = True

    def check(self, height: int, width: int) -> None:
        """Raise SmaltiError unless the grid is square and its side a power of two."""
        if height != width or height & (height - 1):
            raise SmaltiError(
                "order 'stratified' needs a square grid of tokens whose side is a power of two, "
                f"not {height}×{width}",
                argument="order",
            )

    def priority(self, view: StepView) -> torch.Tensor:
        """Return minus the place in the order, the same for every image, (B, n)."""
        self.check(*view.grid)
        return ranks(stratified_order(view.grid[0], self.seed), view.masked)


@dataclass(frozen=True)
class HaltonOrder(Order):
    """Follow a fixed low-discrepancy order of any grid, along the Halton sequence (arXiv 2503.17076)."""

    fixed: ClassVar[bool] = True

    def priority(self, view: StepView) -> torch.Tensor:
        """Return minus the place in the order, the same for every image, (B, n)."""
        return ranks(halton_order(*view.grid), view.masked)


@dataclass(frozen=True)
class RandomOrder(Order):
    """Reveal masked positions at random, each as likely as any other."""

    noisy: ClassVar[bool] = True
    fixed: ClassVar[bool] = True

    def priority(self, view: StepView) -> torch.Tensor:
        """Return the noise itself, (B, n)."""
        assert view.noise is not None
        return view.noise


ORDERS: dict[str, type[Order]] = {
    "confidence": ConfidenceOrder,
    "draw": DrawOrder,
    "history": HistoryOrder,
    "stable": StableOrder,
    "coherent": CoherentOrder,
    "stratified": StratifiedOrder,
    "halton": HaltonOrder,
    "random": RandomOrder,
}
"""Every order by the name that settings use."""


def _check_noise(temperature: float, schedule: str) -> None:
    check_real("temperature", temperature)
    temperature_factors(schedule, 1)


def _gumbel(noise: torch.Tensor | None) -> torch.Tensor:
    """Return standard Gumbel numbers of uniform ones in [0, 1), finite also at the ends."""
    assert noise is not None
    return -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))


def _log(probability: torch.Tensor) -> torch.Tensor:
    """Return log p, finite also where p underflowed."""
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()


def _perturbed(priority: torch.Tensor, temperature: float, schedule: str, view: StepView) -> torch.Tensor:
    """Return a priority with Gumbel noise of a temperature that may fall from step to step."""
    temperature *= temperature_factors(schedule, view.steps)[view.index]
    return priority + temperature * _gumbel(view.noise) if temperature else priority
