"""Loss of denoiser training."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from smalti.objective.loss import denoising_loss

V = 50


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
    torch.testing.assert_close(loss.mean, expected)
    torch.testing.assert_close(loss.weight, torch.tensor(4 + 0.25 * 4))
    torch.testing.assert_close(loss.masked, rows[masked].mean())
    torch.testing.assert_close(loss.visible, rows[~masked].mean())
    alone = denoising_loss(hidden, head, targets, masked, edit_loss_weight=0.0)
    torch.testing.assert_close(alone.mean, rows[masked].mean())


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
    torch.testing.assert_close(loss.mean, (token + 0.5 * group)[rows].mean())
    torch.testing.assert_close(loss.masked, token[rows].mean())
    torch.testing.assert_close(loss.group, group[rows].mean()[None])
    hit = same.gather(1, p.argmax(dim=1)[:, None])[:, 0]
    torch.testing.assert_close(loss.group_accuracy, hit[rows].float().mean()[None])
