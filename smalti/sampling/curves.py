"""Curves over the steps of a generation, which budgets and temperature schedules share."""

from __future__ import annotations

from smalti.common.checks import check_real


def check_shift(shift: float) -> None:
    """Raise SmaltiError unless a shift is a finite number from 10⁻⁶ to 10⁶, where its curve is exact enough."""
    check_real("shift", shift, 1e-6, 1e6)


def shifted(t: float, shift: float) -> float:
    """Return σ(t) = shift·t / (1 + (shift − 1)·t), from 0 at t = 0 to 1 at t = 1."""
    return shift * t / (1 + (shift - 1) * t)


def progress_points(points: int) -> list[float]:
    """Return `points` numbers evenly from 0 to 1; 0 alone for one point.

    They are multiples of the step, as linspace makes them. Where a budget's curve meets a whole number of tokens
    exactly, the last bit decides, and the reference model's budgets come out only this way.
    """
    if points == 1:
        return [0.0]
    return [index * (1 / (points - 1)) for index in range(points - 1)] + [1.0]
