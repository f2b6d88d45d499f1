"""Which masked positions a step reveals: those that an order gives the highest priority."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from smalti.common.checks import check_real, check_whole
from smalti.common.low_discrepancy import halton_order, stratified_order
from smalti.errors import SmaltiError
from smalti.sampling.schedules import TemperatureSchedule
from smalti.sampling.view import StepView


class Order(Protocol):
    """A rule for which masked positions come first."""

    noisy: ClassVar[bool]
    """Whether the rule wants `StepView.noise`."""

    blind: ClassVar[bool]
    """Whether priorities need nothing that a pass finds. What is to be revealed is then known before the pass, and the
    head is asked for nothing else."""

    past: int
    """How many earlier steps the rule wants in `StepView.past`."""

    def check(self, height: int, width: int) -> None:
        """Raise SmaltiError if the rule cannot order a grid of this size."""

    def priority(self, view: StepView) -> torch.Tensor:
        """(B, n) finite floats; the budgeted number of masked positions with the highest is revealed."""


def _gumbel(noise: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in [0, 1) → standard Gumbel ones, finite also at the ends."""
    return -torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))


def _log(probability: torch.Tensor) -> torch.Tensor:
    """log p, finite also where p underflowed."""
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()


@dataclass(frozen=True)
class ConfidenceOrder:
    """The surest candidates first: log p(x₀) + temperature·Gumbel noise (the release's `mmada`).

    Attributes:
        temperature: 0 takes the surest, larger values mix the order.
        schedule: multiplies the temperature step by step, or None.
    """

    temperature: float = 0.0
    schedule: TemperatureSchedule | None = None
    noisy: ClassVar[bool] = True
    blind: ClassVar[bool] = False
    past: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_real("order temperature", self.temperature)

    def check(self, height: int, width: int) -> None:
        """Any grid will do."""

    def priority(self, view: StepView) -> torch.Tensor:
        """(B, n) log p(x₀) + temperature·Gumbel noise."""
        return _perturbed(_log(view.probability), self.temperature, self.schedule, view)


@dataclass(frozen=True)
class HistoryOrder:
    """Candidates that stay the same over the last steps first: a confidence that is corrected by its history.

    With x_j and p_j a position's candidate and its probability j steps ago, its confidence is the mean over the last
    `window` steps (or as many as there were) of p_j·[x_j = x₀], this step included: one that was another a step ago
    counts for less, however sure it is now. The idea that consistency over steps tells what is right follows "Time Is
    a Feature" (arXiv 2508.09138), which votes over the answers of steps; the formula is our own.

    Attributes:
        window: how many steps, this one included; 1 is the confidence order.
        temperature, schedule: as of `ConfidenceOrder`.
    """

    window: int = 4
    temperature: float = 0.0
    schedule: TemperatureSchedule | None = None
    noisy: ClassVar[bool] = True
    blind: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole("order window", self.window)
        check_real("order temperature", self.temperature)

    @property
    def past(self) -> int:
        """How many earlier steps are needed."""
        return self.window - 1

    def check(self, height: int, width: int) -> None:
        """Any grid will do."""

    def priority(self, view: StepView) -> torch.Tensor:
        """(B, n) log of the mean of p_j·[x_j = x₀] + temperature·Gumbel noise."""
        total = view.probability
        for candidate, probability in view.past:
            total = total + probability * (candidate == view.candidate)
        return _perturbed(_log(total / (1 + len(view.past))), self.temperature, self.schedule, view)


def _perturbed(
    priority: torch.Tensor, temperature: float, schedule: TemperatureSchedule | None, view: StepView
) -> torch.Tensor:
    """Gumbel noise of a temperature that may fall from step to step, added to a priority."""
    if schedule is not None:
        temperature *= schedule.values(view.steps)[view.index]
    return priority + temperature * _gumbel(view.noise) if temperature else priority


@dataclass(frozen=True)
class DrawOrder:
    """A draw without replacement from softmax(p(x₀) / temperature) over masked positions (`mask_git`).

    The largest of p / temperature + Gumbel noise are distributed as such a draw (arXiv 1903.06059). At
    temperature 0 it is the order of p(x₀).
    """

    temperature: float = 1.0
    noisy: ClassVar[bool] = True
    blind: ClassVar[bool] = False
    past: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_real("order temperature", self.temperature)

    def check(self, height: int, width: int) -> None:
        """Any grid will do."""

    def priority(self, view: StepView) -> torch.Tensor:
        """(B, n) p(x₀) / temperature + Gumbel noise."""
        if self.temperature < 1e-6:
            return view.probability
        return view.probability / self.temperature + _gumbel(view.noise)


@dataclass(frozen=True)
class RandomOrder:
    """Every masked position is as likely as any other."""

    noisy: ClassVar[bool] = True
    blind: ClassVar[bool] = True
    past: ClassVar[int] = 0

    def check(self, height: int, width: int) -> None:
        """Any grid will do."""

    def priority(self, view: StepView) -> torch.Tensor:
        """(B, n) the noise itself."""
        return view.noise


@dataclass(frozen=True)
class StratifiedOrder:
    """A fixed low-discrepancy order of a square grid whose side is a power of two (docs/format.md, section 5)."""

    seed: int = 42
    noisy: ClassVar[bool] = False
    blind: ClassVar[bool] = True
    past: ClassVar[int] = 0

    def check(self, height: int, width: int) -> None:
        """Raise SmaltiError unless the grid is square and its side a power of two."""
        if height != width or height & (height - 1):
            raise SmaltiError(
                f"the stratified order needs a square grid whose side is a power of two, not {height}×{width}"
            )

    def priority(self, view: StepView) -> torch.Tensor:
        """(B, n) minus the place in the order, the same for every image."""
        self.check(*view.grid)
        return _ranks(stratified_order(view.grid[0], self.seed), view)


@dataclass(frozen=True)
class HaltonOrder:
    """A fixed low-discrepancy order of any grid, along the Halton sequence (arXiv 2503.17076)."""

    noisy: ClassVar[bool] = False
    blind: ClassVar[bool] = True
    past: ClassVar[int] = 0

    def check(self, height: int, width: int) -> None:
        """Any grid will do."""

    def priority(self, view: StepView) -> torch.Tensor:
        """(B, n) minus the place in the order, the same for every image."""
        return _ranks(halton_order(*view.grid), view)


def _ranks(order: tuple[int, ...], view: StepView) -> torch.Tensor:
    """An order of positions → minus each position's place in it, (B, n)."""
    device = view.masked.device
    places = torch.empty(len(order), device=device)
    places[torch.tensor(order, device=device)] = -torch.arange(len(order), dtype=torch.float32, device=device)
    return places.expand(view.masked.shape)


def make_order(
    name: str, temperature: float | None = None, schedule: TemperatureSchedule | None = None
) -> Order:
    """The order that a name on the command line stands for.

    Args:
        name: "confidence", "draw", "history", "stratified", "halton" or "random".
        temperature: of the first three (None: their defaults); the others ignore it.
        schedule: of "confidence" and "history", or None.

    Raises:
        SmaltiError: another name, or a schedule for an order that has none.
    """
    fixed = {"stratified": StratifiedOrder, "halton": HaltonOrder, "random": RandomOrder}
    if schedule is not None and name not in ("confidence", "history"):
        raise SmaltiError(
            f"an order temperature schedule goes with the order 'confidence' or 'history', not {name!r}"
        )
    if name == "confidence":
        return ConfidenceOrder(0.0 if temperature is None else temperature, schedule)
    if name == "history":
        return HistoryOrder(temperature=0.0 if temperature is None else temperature, schedule=schedule)
    if name == "draw":
        return DrawOrder(1.0 if temperature is None else temperature)
    if name in fixed:
        return fixed[name]()
    raise SmaltiError(f"order must be confidence, draw, history, stratified, halton or random, not {name!r}")
