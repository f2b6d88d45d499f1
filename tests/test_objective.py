"""Corruption and loss of denoiser training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.objective.corruption import corrupt, cosine_mask_ratio
from smalti.objective.loss import denoising_loss

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


def test_groups_join_the_loss_and_are_logged_apart() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden, head = torch.randn(1, 4, 8, generator=generator), torch.randn(V, 8, generator=generator)
    targets = torch.randint(0, V, (1, 2, 2), generator=generator)
    masked = torch.tensor([[[True, False], [True, True]]])
    halves = torch.arange(V) % 2
    p = (hidden.flatten(0, 1) @ head.T).softmax(dim=1)
    token = -p.gather(1, targets.flatten()[:, None]).log()[:, 0]
    same = halves == halves[targets.flatten()][:, None]
    group = -(p * same).sum(dim=1).log()
    rows = masked.flatten()
    loss = denoising_loss(
        hidden, head, targets, masked, edit_loss_weight=0.0, groups=[halves], group_weights=[0.5]
    )
    torch.testing.assert_close(loss.total, (token + 0.5 * group)[rows].mean())
    torch.testing.assert_close(loss.masked, token[rows].mean())
    torch.testing.assert_close(loss.group, group[rows].mean()[None])
    hit = same.gather(1, p.argmax(dim=1)[:, None])[:, 0]
    torch.testing.assert_close(loss.group_accuracy, hit[rows].float().mean()[None])
