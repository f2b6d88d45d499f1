"""Predictions of several passes compared, against the definitions."""

from __future__ import annotations

import pytest
import torch

from smalti.common.low_rank import LowRank
from smalti.errors import SmaltiError
from smalti.ops.compare import pass_divergence, pass_mixture


@pytest.fixture(scope="module")
def parts():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 40, 8, generator=generator)
    head, up, down = (torch.randn(*shape, generator=generator) for shape in ((50, 8), (50, 2), (2, 8)))
    return hidden, head, LowRank(down, up)


@pytest.mark.parametrize("adapted", [False, True])
def test_the_definitions(parts, adapted):
    hidden, head, update = parts
    matrix = (head + update.up @ update.down if adapted else head).double()
    p = (hidden.double() @ matrix.T).softmax(dim=-1)
    low_rank = update if adapted else None

    def entropy(p):
        return -(p * p.log()).sum(dim=-1)

    expected = (p[0] * (p[0].log() - p[1].log())).sum(dim=-1)
    found = pass_divergence(hidden[:2], head, low_rank)
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=1e-4)
    mixture = pass_mixture(hidden, head, low_rank)
    torch.testing.assert_close(mixture.single, entropy(p).float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mixture.entropy, entropy(p.mean(0)).float(), atol=1e-4, rtol=1e-4)
    information = entropy(p.mean(0)) - entropy(p).mean(0)
    torch.testing.assert_close(mixture.information, information.float(), atol=1e-4, rtol=1e-4)


def test_a_row_does_not_depend_on_the_others(parts):
    hidden, head, _ = parts
    together, mixture = pass_divergence(hidden[:2], head), pass_mixture(hidden, head)
    for row in (0, 17):
        alone = hidden[:, row : row + 1]
        assert torch.equal(pass_divergence(alone[:2], head)[0], together[row])
        assert torch.equal(pass_mixture(alone, head).entropy[0], mixture.entropy[row])


def test_equal_passes_do_not_differ(parts):
    hidden, head, _ = parts
    same = hidden[:1].expand(2, -1, -1)
    assert not bool(pass_divergence(same, head).any())
    assert float(pass_mixture(same, head).information.max()) < 1e-5


def test_no_rows(parts):
    _, head, _ = parts
    assert pass_divergence(torch.zeros(2, 0, 8), head).shape == (0,)
    assert pass_mixture(torch.zeros(3, 0, 8), head).single.shape == (3, 0)


def test_wrong_shapes(parts):
    hidden, head, _ = parts
    with pytest.raises(SmaltiError, match="hidden must be of two passes, not 3"):
        pass_divergence(hidden, head)
    with pytest.raises(SmaltiError, match=r"hidden must be \(d, N, D\)"):
        pass_mixture(hidden[..., :5], head)
