"""Loss of denoiser training."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from smalti.model.head import Head
from smalti.objective.loss import denoising_loss

V = 50


def head_of(weight: torch.Tensor) -> Head:
    made = Head(*weight.shape[::-1])
    made.weight.data.copy_(weight)
    return made


def test_loss_weighs_visible_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(2, 4, 8, generator=generator), torch.randn(V, 8, generator=generator)
    targets = torch.randint(0, V, (2, 2, 2), generator=generator)
    masked = torch.tensor([[[True, False], [True, True]], [[False, False], [True, False]]])
    rows = F.cross_entropy(hidden.flatten(0, 1) @ head.T, targets.flatten(), reduction="none").reshape(
        2, 2, 2
    )
    loss = denoising_loss(hidden, head_of(head), targets, masked, edit_loss_weight=0.25)
    expected = (rows[masked].sum() + 0.25 * rows[~masked].sum()) / (4 + 0.25 * 4)
    torch.testing.assert_close(loss.mean, expected)
    torch.testing.assert_close(loss.weight, torch.tensor(4 + 0.25 * 4))
    torch.testing.assert_close(loss.masked.value, rows[masked].mean())
    torch.testing.assert_close(loss.visible.value, rows[~masked].mean())
    alone = denoising_loss(hidden, head_of(head), targets, masked, edit_loss_weight=0.0)
    torch.testing.assert_close(alone.mean, rows[masked].mean())


def test_factors_weigh_positions_and_zero_takes_them_out() -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, head = torch.randn(2, 4, 8, generator=generator), torch.randn(V, 8, generator=generator)
    targets = torch.randint(0, V, (2, 2, 2), generator=generator)
    masked = torch.tensor([[[True, False], [True, True]], [[False, False], [True, False]]])
    weights = torch.tensor([[[1.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    rows = F.cross_entropy(hidden.flatten(0, 1) @ head.T, targets.flatten(), reduction="none").view(2, 2, 2)
    loss = denoising_loss(hidden, head_of(head), targets, masked, edit_loss_weight=0.25, weights=weights)
    first = rows[0].flatten()
    torch.testing.assert_close(loss.weighted_sum, first[0] + 0.25 * first[1] + 0.5 * first[2])
    torch.testing.assert_close(loss.weight, torch.tensor(1.75))
    torch.testing.assert_close(loss.masked.value, (first[0] + 0.5 * first[2]) / 1.5)
    nothing = denoising_loss(
        hidden.requires_grad_(), head_of(head), targets, masked, edit_loss_weight=0.25, weights=0 * weights
    )
    nothing.weighted_sum.backward()
    assert float(nothing.weight) == float(nothing.masked.value) == float(hidden.grad.abs().sum()) == 0


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
        hidden, head_of(head), targets, masked, edit_loss_weight=0.0, groups=[halves], group_weights=[0.5]
    )
    torch.testing.assert_close(loss.mean, (token + 0.5 * group)[rows].mean())
    torch.testing.assert_close(loss.masked.value, token[rows].mean())
    torch.testing.assert_close(loss.group[0].value, group[rows].mean())
    hit = same.gather(1, p.argmax(dim=1)[:, None])[:, 0]
    torch.testing.assert_close(loss.group_accuracy[0].value, hit[rows].float().mean())
