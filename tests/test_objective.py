"""Corruption and loss of denoiser training, and the operator beneath the loss."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.objective.corruption import corrupt, cosine_mask_ratio
from smalti.objective.loss import denoising_loss
from smalti.ops import cross_entropy
from smalti.ops.cross_entropy import linear_cross_entropy

V, MASK = 50, 51


@settings(max_examples=30, deadline=None)
@given(flip=st.floats(0, 1), seed=st.integers(0, 2**40), side=st.integers(1, 8))
def test_corruption_masks_and_flips(flip: float, seed: int, side: int) -> None:
    tokens = torch.randint(0, V, (4, side, side), generator=torch.Generator().manual_seed(1))

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return corrupt(tokens, codebook_size=V, mask_code=MASK, flip_ratio=flip, generator=generator)

    shown, masked = run()
    assert ((shown == MASK) == masked).all()
    assert masked.flatten(1).any(dim=1).all()
    assert ((shown[~masked] >= 0) & (shown[~masked] < V)).all()
    if flip == 0:
        assert torch.equal(shown[~masked], tokens[~masked])
    if flip == 1:
        assert (shown[~masked] != tokens[~masked]).all()
    assert all(torch.equal(first, second) for first, second in zip((shown, masked), run(), strict=True))


def test_corruption_shares() -> None:
    tokens = torch.randint(0, V, (2000, 8, 8), generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    shown, masked = corrupt(tokens, codebook_size=V, mask_code=MASK, flip_ratio=0.2, generator=generator)
    # The mean of cos(πu/2) over u ~ U(0, 1) is 2/π; rounding up adds half a token of 64.
    assert abs(masked.float().mean() - (2 / torch.pi + 0.5 / 64)) < 0.02
    wrong = (shown != tokens) & ~masked
    assert abs(wrong.sum() / (~masked).sum() - 0.2) < 0.01


def test_mask_ratio_runs_from_all_to_nothing() -> None:
    ratio = cosine_mask_ratio(torch.linspace(0, 1, 11))
    assert ratio[0] == 1 and abs(ratio[-1]) < 1e-6 and (ratio.diff() < 0).all()


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 9),
    width=st.integers(1, 6),
    codes=st.integers(1, 40),
    chunk=st.integers(1, 200),
    seed=st.integers(0, 999),
)
def test_operator_matches_the_definition(rows: int, width: int, codes: int, chunk: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator, requires_grad=True)
    head = torch.randn(codes, width, generator=generator, requires_grad=True)
    targets = torch.randint(0, codes, (rows,), generator=generator)
    weight = torch.rand(rows, generator=generator)
    expected = (F.cross_entropy(hidden @ head.T, targets, reduction="none") * weight).sum()
    wanted = torch.autograd.grad(expected * 3, (hidden, head))
    with mock.patch.dict(cross_entropy._CHUNK_ELEMENTS, cpu=chunk):
        total, losses, hits = linear_cross_entropy(hidden, head, targets, weight)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close((losses * weight).sum(), expected.detach())
    assert torch.equal(hits, (hidden @ head.T).argmax(dim=1) == targets)
    for found, gradient in zip(torch.autograd.grad(total * 3, (hidden, head)), wanted, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)


def test_operator_under_autocast_stays_near_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 32, generator=generator, requires_grad=True)
    head = torch.randn(300, 32, generator=generator, requires_grad=True)
    targets = torch.randint(0, 300, (64,), generator=generator)
    exact = F.cross_entropy(hidden @ head.T, targets)
    wanted = torch.autograd.grad(exact, (hidden, head))
    with torch.autocast("cpu", torch.bfloat16):
        total, _, _ = linear_cross_entropy(hidden * 1, head, targets, torch.full((64,), 1 / 64))
    found = torch.autograd.grad(total, (hidden, head))
    assert found[1].dtype == torch.float32
    assert abs(total - exact) / exact < 1e-2
    for gradient, expected in zip(found, wanted, strict=True):
        assert (gradient - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize(
    ("targets", "weight", "message"),
    [
        ([0, 5], [1.0, 1.0], "targets must be from 0 to 4, not 0 to 5"),
        ([0], [1.0, 1.0], r"targets and row_weight must be \(2,\)"),
    ],
)
def test_operator_names_bad_input(targets: list[int], weight: list[float], message: str) -> None:
    with pytest.raises(SmaltiError, match=message):
        linear_cross_entropy(
            torch.zeros(2, 3), torch.zeros(5, 3), torch.tensor(targets), torch.tensor(weight)
        )


def test_loss_weighs_visible_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(2, 4, 8, generator=generator), torch.randn(V, 8, generator=generator)
    targets = torch.randint(0, V, (2, 2, 2), generator=generator)
    masked = torch.tensor([[[True, False], [True, True]], [[False, False], [True, False]]])
    rows = F.cross_entropy(hidden.flatten(0, 1) @ head.T, targets.flatten(), reduction="none").reshape(
        2, 2, 2
    )
    loss = denoising_loss(hidden, head, targets, masked, edit_loss_weight=0.25)
    expected = (rows[masked].sum() + 0.25 * rows[~masked].sum()) / (4 + 0.25 * 4)
    torch.testing.assert_close(loss.total, expected)
    torch.testing.assert_close(loss.masked, rows[masked].mean())
    torch.testing.assert_close(loss.visible, rows[~masked].mean())
    alone = denoising_loss(hidden, head, targets, masked, edit_loss_weight=0.0)
    torch.testing.assert_close(alone.total, rows[masked].mean())
