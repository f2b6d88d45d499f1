"""Calibration of classifications: a temperature that makes probabilities true, and measures of how true they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from smalti.errors import SmaltiError
from smalti.reading.classification import Classification

_ROUNDS = 80  # halvings of the range of log-temperatures; the range is ±ln of the number below
_WIDEST = 1e6


def fit_temperature(results: Sequence[Classification], truths: Sequence[int]) -> float:
    """Return the temperature that makes the true labels most probable (arXiv 1706.04599, section 4.2).

    The mean log-probability is concave in 1 / T, so a search of its slope's sign finds the only optimum.

    Args:
        results: classifications of images whose labels are known.
        truths: number of the true label of each, from 0.

    Raises:
        SmaltiError: there is no result, or not one truth for each.

    Example:
        >>> sure = Classification(("a", "b"), (1.0, 0.0), (4.0, 0.0), (1, 1), 2, 1.0)
        >>> round(fit_temperature([sure] * 4, [0, 0, 0, 1]), 3)  # 4 / ln 3
        3.641
    """
    if not results or len(results) != len(truths):
        raise SmaltiError(
            f"truths must be one for each of at least one result, not {len(truths)} for {len(results)}",
            argument="truths",
        )
    values = [torch.tensor(result.log_likelihoods, dtype=torch.float64) for result in results]
    low, high = 1 / _WIDEST, _WIDEST
    for _ in range(_ROUNDS):
        middle = (low * high) ** 0.5
        # Slope of the mean log-probability in 1 / T: the true label's value less the expected one.
        slope = sum(
            float(value[truth] - ((value * middle).softmax(0) * value).sum())
            for value, truth in zip(values, truths, strict=True)
        )
        low, high = (middle, high) if slope > 0 else (low, middle)
    return 1 / (low * high) ** 0.5


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Return the expected calibration error (arXiv 1706.04599, eq. 3).

    It is the mean distance between confidence and share of right answers, over bins of equal width.

    Example:
        >>> calibration_error([0.75] * 4, [True, True, True, False])
        0.0
    """
    sure, true = torch.tensor(confidences, dtype=torch.float64), torch.tensor(right, dtype=torch.float64)
    places = (sure * bins).long().clamp(max=bins - 1)
    error = 0.0
    for place in range(bins):
        inside = places == place
        if bool(inside.any()):
            error += float(inside.double().mean()) * abs(float(sure[inside].mean() - true[inside].mean()))
    return error
