"""A low-rank update of the head in both operators: the numbers of a head that holds it."""

from __future__ import annotations

import pytest
import torch
from gce_definition import definition, small_chunks

from smalti.common.low_rank import LowRank
from smalti.errors import SmaltiError
from smalti.ops.gce import grouped_cross_entropy
from smalti.ops.sample import sample_tokens

N, D, V, R = 13, 8, 40, 3
TARGETS = torch.arange(N)
GROUPS = [torch.arange(V) // 4, torch.arange(V) // 10]
WEIGHTS = [0.2, 0.3]


def parts(scaled: bool, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Hidden vectors, head, A, B and, if it is wanted, the scale of the columns."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(N, D), (V, D), (R, D), (V, R)] + [(V,)] * scaled
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def whole(head: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: torch.Tensor | float = 1.0):
    return (scale[:, None] if isinstance(scale, torch.Tensor) else scale) * head + up @ down


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("focus", [0.0, 1.5])
@pytest.mark.parametrize("scaled", [False, True])
def test_loss_and_every_gradient_match_the_definition(scaled, focus, backend):
    hidden, head, *update = inputs = parts(scaled, torch.float64 if backend == "torch" else torch.float32)
    if backend == "triton":
        pytest.importorskip("triton")
    weight = torch.rand(N, generator=torch.Generator().manual_seed(1)).to(hidden.dtype)
    weight[3] = 0
    with small_chunks(4 * V):
        found = grouped_cross_entropy(
            hidden, head, TARGETS, GROUPS, WEIGHTS, weight, focus, backend=backend, low_rank=LowRank(*update)
        )
        gradients = torch.autograd.grad(found.loss, inputs)
    expected = definition(hidden, whole(head, *update), TARGETS, GROUPS, WEIGHTS, weight, focus)
    for one, other in zip(gradients, torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(found.loss, expected)


def test_a_frozen_head_gets_no_gradient_and_keeps_no_memory_for_one():
    hidden, head, *update = parts(True, torch.float32)
    head.requires_grad_(False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, id):
        grouped_cross_entropy(hidden, head, TARGETS, low_rank=LowRank(*update))
    assert (V, D) not in kept and (V, R) in kept
    grouped_cross_entropy(hidden, head, TARGETS, low_rank=LowRank(*update)).loss.backward()
    assert head.grad is None and all(part.grad.abs().sum() > 0 for part in update)


def test_autocast_and_a_bf16_base():
    hidden, head, *update = parts(True, torch.float32)
    expected = grouped_cross_entropy(hidden, head, TARGETS, low_rank=LowRank(*update)).loss
    gradients = torch.autograd.grad(expected, [hidden, *update])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = grouped_cross_entropy(hidden, head.bfloat16(), TARGETS, low_rank=LowRank(*update)).loss
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=0.02, atol=0.02)
    for one, other in zip(torch.autograd.grad(rounded, [hidden, *update]), gradients, strict=True):
        assert one.dtype == torch.float32 and (one - other).norm() / other.norm() < 0.05


def test_dropout_drops_values_of_the_update_alone():
    hidden, head, *update = (part.detach() for part in parts(False, torch.float32))
    dropped = LowRank(*update, dropout=1.0)
    found = grouped_cross_entropy(hidden, head, TARGETS, low_rank=dropped)
    torch.testing.assert_close(found.loss, grouped_cross_entropy(hidden, head, TARGETS).loss)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("scaled", [False, True])
def test_tokens_are_those_of_the_whole_head(scaled, backend):
    if backend == "triton":
        pytest.importorskip("triton")
    hidden, head, *update = (part.detach() for part in parts(scaled, torch.float32))
    other = hidden.flip(0)
    uniform = torch.rand(N, generator=torch.Generator().manual_seed(2))
    options = dict(hidden_uncond=other, guidance_scale=1.5, temperature=0.7, current_tokens=TARGETS)
    found = sample_tokens(
        hidden, head, uniform, chunk_rows=5, backend=backend, low_rank=LowRank(*update), **options
    )
    expected = sample_tokens(hidden, whole(head, *update), uniform, backend=backend, **options)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_shapes_are_checked():
    hidden, head, down, up = parts(False)
    for wrong in (LowRank(down[:, 1:], up), LowRank(down, up.T), LowRank(down, up, torch.ones(3))):
        with pytest.raises(SmaltiError, match="low_rank must"):
            grouped_cross_entropy(hidden, head, TARGETS, low_rank=wrong)
        with pytest.raises(SmaltiError, match="low_rank must"):
            sample_tokens(hidden, head, low_rank=wrong)
