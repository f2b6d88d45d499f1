"""Attention on a CPU in bfloat16, head by head, against the definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.model import attention

bf16_cpu = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="needs a CPU on which PyTorch multiplies in bfloat16",
)


def make(B, heads, groups, L, K, d, seed=0, scale=1.0):
    """Query, key, value as the projections give them: the heads of a position side by side."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(B, length, count, d, generator=generator) * size).bfloat16().transpose(1, 2)
        for length, count, size in ((L, heads, scale), (K, heads // groups, 1.0), (K, heads // groups, 1.0))
    ]


def definition(query, key, value):
    """In float64, and how far float32 logits with weights and results rounded to bfloat16 may be from it."""
    groups = query.shape[1] // key.shape[1]
    query, key, value = (tensor.double() for tensor in (query, key, value))
    key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    weights = (query @ key.transpose(2, 3) / query.shape[3] ** 0.5).softmax(dim=-1)
    return weights @ value, 2**-8 * (weights @ value.abs()) + 2**-8 * (weights @ value).abs()


@bf16_cpu
@settings(max_examples=30, deadline=None)
@given(
    B=st.integers(1, 3),
    keys=st.integers(1, 3),
    groups=st.integers(1, 4),
    L=st.integers(1, 1200),
    K=st.integers(1, 600),
    d=st.sampled_from([8, 32, 128]),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
@torch.inference_mode()
def test_it_is_attention(B, keys, groups, L, K, d, scale, seed):
    tensors = make(B, keys * groups, groups, L, K, d, seed, scale)
    found = attention._attend_by_head(*tensors)
    expected, tolerance = definition(*tensors)
    assert found.shape == expected.shape and found.dtype == torch.bfloat16
    assert ((found.double() - expected).abs() <= tolerance + 1e-6).all()


@bf16_cpu
@torch.inference_mode()
def test_an_image_does_not_depend_on_its_batch():
    tensors = make(3, 8, 4, 700, 700, 32)
    whole = attention._attend_by_head(*tensors)
    for image in range(3):
        alone = attention._attend_by_head(*(tensor[image : image + 1] for tensor in tensors))
        assert torch.equal(alone, whole[image : image + 1])


def test_when_it_is_used(monkeypatch):
    """Never with a mask, gradients, another dtype, few queries, or on another CPU."""
    used = []
    monkeypatch.setattr(attention, "_attend_by_head", lambda query, *_: used.append(1) or query)
    tensors = make(1, 4, 2, 300, 300, 8)
    visible = torch.ones(1, 1, 1, 300, dtype=torch.bool)
    for faster in (False, True):
        monkeypatch.setattr(attention, "_own_is_faster", lambda faster=faster: faster)
        attention.attend(*tensors)
        with torch.inference_mode():
            attention.attend(*tensors, visible)
            attention.attend(*(tensor.float() for tensor in tensors))
            attention.attend(tensors[0][:, :, :99], *tensors[1:])
            assert not used
            attention.attend(*tensors)
        assert len(used) == faster


@bf16_cpu
@settings(max_examples=20, deadline=None)
@given(
    B=st.integers(1, 3),
    heads=st.integers(1, 3),
    L=st.integers(1, 90),
    K=st.integers(1, 90),
    padded=st.integers(0, 20),
    seed=st.integers(0, 99),
)
def test_in_training_it_is_attention_with_its_gradients(B, heads, L, K, padded, seed):
    tensors = [tensor.requires_grad_() for tensor in make(B, heads, 1, L, K, 32, seed)]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    visible = torch.arange(K).expand(B, 1, 1, K) < max(1, K - padded)
    found = attention._attend_by_products(*tensors, visible)
    expected = torch.nn.functional.scaled_dot_product_attention(*exact, attn_mask=visible)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed)).bfloat16()
    found.backward(direction)
    expected.backward(direction.double())
    for one, other in zip(
        [found, *(t.grad for t in tensors)], [expected, *(t.grad for t in exact)], strict=True
    ):
        assert torch.isfinite(one).all()
        assert (one.double() - other).norm() <= 0.02 * other.norm() + 1e-2


def test_when_it_is_used_in_training(monkeypatch):
    """With gradients, on CPUs where it is faster, for short sequences in bfloat16."""
    used = []
    monkeypatch.setattr(attention, "_attend_by_products", lambda query, *_: used.append(1) or query)
    monkeypatch.setattr(attention, "_own_is_faster", lambda: True)
    short, long, grouped = make(1, 2, 1, 9, 9, 8), make(1, 2, 1, 9, 600, 8), make(1, 4, 2, 9, 9, 8)
    attention.attend(*(tensor.float() for tensor in short))
    attention.attend(*long)
    attention.attend(*grouped)
    with torch.inference_mode():
        attention.attend(*short)
    assert not used
    attention.attend(*short)
    assert used == [1]
