"""Layers in blocks of GGUF: numbers as gguf itself unpacks them, gradients, other dtypes."""

from __future__ import annotations

import pytest
import torch
from gguf_files import random_blocks

from smalti.runtime.blocks import BLOCKS, BlockLinear

gguf = pytest.importorskip("gguf")


def make(kind: str) -> tuple[BlockLinear, torch.Tensor]:
    raw = random_blocks((6, 768), kind)
    floats = gguf.quants.dequantize(raw, getattr(gguf.GGMLQuantizationType, kind))
    return BlockLinear(torch.from_numpy(raw), kind), torch.from_numpy(floats)


@pytest.mark.parametrize("kind", BLOCKS)
def test_numbers_are_those_of_gguf(kind):
    layer, floats = make(kind)
    assert (layer.in_features, layer.out_features) == (768, 6)
    assert torch.equal(layer.dequantize(torch.float32), floats)
    sizes = gguf.GGML_QUANT_SIZES[getattr(gguf.GGMLQuantizationType, kind)]
    assert sizes == (BLOCKS[kind].numbers, BLOCKS[kind].bytes)
    for dtype in (torch.bfloat16, torch.float16):
        short = layer.dequantize(dtype)
        assert short.dtype == dtype and (short.float() - floats).norm() < 0.02 * floats.norm()


@pytest.mark.parametrize("kind", BLOCKS)
def test_products_and_gradients(kind):
    layer, floats = make(kind)
    x = torch.randn(2, 3, 768, generator=torch.Generator().manual_seed(0), requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        product = layer(x)
    assert torch.allclose(product, x @ floats.T, atol=1e-5)
    (found,) = torch.autograd.grad(product.sum(), x)
    assert torch.allclose(found, floats.sum(0).expand_as(x), atol=1e-5)
    assert [one.data_ptr() for one in kept] == [layer.stored.data_ptr()]
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
