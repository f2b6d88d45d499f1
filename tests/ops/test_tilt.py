"""Tilts: products that are added to the logits."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.ops.sample import sample_tokens
from smalti.ops.tilt import Tilt


def test_it_is_added_to_the_guided_logits_of_each_row():
    draw = torch.Generator().manual_seed(0)
    hidden, without, head = (torch.randn(n, 8, generator=draw) for n in (40, 40, 30))
    tilt = Tilt(torch.randn(40, 2, generator=draw), torch.randn(30, 2, generator=draw))
    p = ((3 * hidden - 2 * without) @ head.T + tilt.vectors @ tilt.codes.T).softmax(dim=1)
    for rows in (torch.arange(40), torch.tensor([3, 17])):
        for chunk in (None, 7):
            choice = sample_tokens(
                hidden[rows],
                head,
                hidden_uncond=without[rows],
                guidance_scale=2.0,
                tilt=tilt.at(rows),
                chunk_rows=chunk,
            )
            torch.testing.assert_close(choice.probability, p[rows].amax(dim=1), rtol=1e-4, atol=1e-6)


def test_improbable_codes_are_left_out_before_the_sum():
    logits = torch.tensor([[0.0, -1.0, -9.0]])
    tilted = Tilt(torch.ones(1, 1), torch.tensor([[0.0], [2.0], [99.0]]), least=0.1).add_to(
        logits, slice(0, 1)
    )
    assert tilted.tolist() == [[0.0, 1.0, -torch.inf]]


def test_shapes_are_checked():
    with pytest.raises(SmaltiError, match="tilt must hold"):
        sample_tokens(torch.zeros(2, 4), torch.zeros(3, 4), tilt=Tilt(torch.zeros(2, 1), torch.zeros(4, 1)))
