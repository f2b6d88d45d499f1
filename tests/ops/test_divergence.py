"""The divergence from a frozen model against its definition: full logits and autograd."""

from __future__ import annotations

import pytest
import torch

from smalti.common.low_rank import LowRank
from smalti.errors import SmaltiError
from smalti.ops import divergence
from smalti.ops.divergence import divergence_from

N, D, V, R = 13, 8, 40, 3


def parts(scaled: bool, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Hidden vectors of both models, head, A, B and, if it is wanted, the scale of the columns."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(N, D), (N, D), (V, D), (R, D), (V, R)] + [(V,)] * scaled
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def definition(before, hidden, head, weight, down=None, up=None, scale=None):
    logits = hidden @ head.detach().T
    if scale is not None:
        logits = logits * scale
    if down is not None:
        logits = logits + hidden @ down.T @ up.T
    theirs = (before @ head.T).detach().softmax(dim=1)
    rows = (theirs * (theirs.log() - logits.log_softmax(dim=1))).sum(dim=1)
    return (rows * weight).sum(), rows


@pytest.mark.parametrize("update", ["none", "plain", "scaled"])
def test_value_and_every_gradient_match_the_definition(update, monkeypatch):
    monkeypatch.setattr(divergence, "_CHUNK_ELEMENTS", {"cpu": 4 * V})
    monkeypatch.setattr(divergence, "_LEAST_ROWS", 1)
    before, hidden, head, *low_rank = parts(update == "scaled")
    low_rank = [] if update == "none" else low_rank
    weight = torch.rand(N, generator=torch.Generator().manual_seed(1)).double()
    weight[3] = 0
    found = divergence_from(before, hidden, head, weight, LowRank(*low_rank) if low_rank else None)
    expected, rows = definition(before, hidden, head, weight, *low_rank)
    torch.testing.assert_close(found.total, expected)
    torch.testing.assert_close(found.rows, torch.where(weight != 0, rows, 0).detach())
    inputs = [hidden, *low_rank]
    ours, theirs = (torch.autograd.grad(2 * total, inputs) for total in (found.total, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_frozen_model_and_the_head_are_constants():
    before, hidden, head, *_ = parts(False)
    divergence_from(before, hidden, head).total.backward()
    assert hidden.grad.abs().sum() > 0 and before.grad is None and head.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_agree_have_no_gradient(dtype):
    _, hidden, head, *_ = (part.detach().to(dtype).requires_grad_() for part in parts(False))
    found = divergence_from(hidden, hidden, head)
    found.total.backward()
    assert found.total == 0 and not found.rows.any() and not hidden.grad.any()


def test_autocast_computes_products_in_its_dtype():
    before, hidden, head, *update = parts(False, torch.float32)
    exact = divergence_from(before, hidden, head, low_rank=LowRank(*update))
    with torch.autocast("cpu", torch.bfloat16):
        found = divergence_from(before, hidden, head, low_rank=LowRank(*update))
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total, exact.total, rtol=2e-2, atol=0)
    found.total.backward()
    assert all(part.grad.dtype == torch.float32 for part in (hidden, *update))


def test_no_rows():
    hidden = torch.zeros(3, 4, requires_grad=True)
    divergence_from(hidden, hidden, torch.randn(16, 4), torch.zeros(3)).total.backward()
    assert not hidden.grad.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_weight": torch.zeros(5, 3)}, r"hidden must be \(N, D\) and head_weight \(V, D\)"),
        ({"before": torch.zeros(2, 4)}, r"before must be \(3, 4\), as hidden is, not \(2, 4\)"),
        ({"row_weight": torch.zeros(2)}, r"row_weight must be \(3,\), not \(2,\)"),
    ],
)
def test_shapes_that_do_not_fit(changes, message):
    values = {"before": torch.zeros(3, 4), "hidden": torch.zeros(3, 4), "head_weight": torch.zeros(5, 4)}
    with pytest.raises(SmaltiError, match=message):
        divergence_from(**{**values, **changes})
