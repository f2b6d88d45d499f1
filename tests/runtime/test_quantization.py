"""Linear layers in 8 and 4 bits."""

from __future__ import annotations

import builtins

import pytest
import torch
from folders import write_tiny_model
from tiny import tiny_denoiser, tiny_prompts

import smalti
from smalti.errors import SmaltiError
from smalti.runtime.memory import matrix_bytes
from smalti.runtime.quantization import QUANTIZATIONS, GroupLinear, RowLinear, empty_linear, quantized_linear
from smalti.storage.folder import load_denoiser, save_denoiser

pytest.importorskip("torchao")
# The most that storing a normally distributed weight may cost, as a share of the result's size.
ERRORS = {"int8": 0.01, "fp8": 0.04, "int4": 0.11}


def make_weight(rows=96, columns=256, scale=0.02, dtype=torch.float32):
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * scale).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_products_are_close(quantize, dtype):
    weight = make_weight(dtype=dtype)
    x = torch.randn(3, 5, 256, generator=torch.Generator().manual_seed(1)).to(dtype)
    found, expected = quantized_linear(weight, quantize)(x), x.float() @ weight.float().T
    assert found.dtype == dtype and found.shape == (3, 5, 96)
    error = (found.float() - expected).norm() / expected.norm()
    assert 1e-4 < error < ERRORS[quantize]


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_sizes_of_weights_do_not_matter(quantize):
    """Tiny weights, huge ones, zeros and a row with an outlier are stored as well as others."""
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(1))
    for scale in (1e-5, 1e3):
        weight = make_weight(scale=scale)
        expected = x @ weight.T
        assert (quantized_linear(weight, quantize)(x) - expected).norm() / expected.norm() < ERRORS[quantize]
    assert not quantized_linear(torch.zeros(8, 256), quantize)(x).any()
    weight = make_weight()
    weight[3, 7] = 5.0
    found, expected = quantized_linear(weight, quantize)(x), x @ weight.T
    others = [row for row in range(96) if row != 3]
    error = (found - expected)[:, others].norm() / expected[:, others].norm()
    assert error < ERRORS[quantize], "an outlier spoils its own row or group only"


def test_four_bits_are_two_in_a_byte():
    weight = make_weight()
    linear = quantized_linear(weight, "int4")
    assert isinstance(linear, GroupLinear) and linear.stored.shape == (96, 128)
    assert linear.scale.shape == linear.zero.shape == (96, 4)
    unpacked = linear.dequantize(torch.float32)
    # No number is further off than half a step of its group's 15.
    steps = linear.scale.repeat_interleave(64, dim=1)
    assert ((unpacked - weight).abs() <= 0.5001 * steps).all()


def test_rows_that_are_not_whole_groups():
    for columns, groups in ((96, 3), (80, 5), (6, 3)):
        linear = quantized_linear(make_weight(8, columns), "int4")
        assert linear.scale.shape == (8, groups)
    with pytest.raises(SmaltiError, match="rows of 7 numbers"):
        quantized_linear(make_weight(8, 7), "int4")


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_bytes_are_those_of_the_arithmetic(quantize):
    weight = make_weight(256, 1024, dtype=torch.bfloat16)
    stored = sum(part.nbytes for part in quantized_linear(weight, quantize).parameters())
    assert stored == pytest.approx(weight.numel() * matrix_bytes(quantize, "bfloat16"), rel=0.005)


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_a_denoiser(tmp_path, quantize):
    save_denoiser(tiny_denoiser(scale=3.0), tmp_path)
    plain, small = load_denoiser(tmp_path), load_denoiser(tmp_path, quantize=quantize)
    linears = [module for module in small.layers.modules() if isinstance(module, RowLinear | GroupLinear)]
    assert len(linears) == 2 * 7 and not any(isinstance(m, torch.nn.Linear) for m in small.layers.modules())
    # Everything else is as it was.
    ours = {f"{name}.{part}" for name, _ in plain.named_modules() for part in ("stored", "scale", "zero")}
    for name, weight in small.named_parameters():
        assert name in ours or torch.equal(weight, plain.get_parameter(name))
    prompt = tiny_prompts(plain, ["a red circle"])
    tokens = torch.full((1, 4, 4), plain.config.mask_code)
    with torch.inference_mode():
        expected, found = plain(tokens, prompt), small(tokens, prompt)
    assert 1e-4 < (found - expected).norm() / expected.norm() < 4 * ERRORS[quantize]
    with pytest.raises(SmaltiError, match="quantized layers cannot be saved"):
        save_denoiser(small, tmp_path / "b")


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_gradients_pass_through(quantize):
    """They are those of a float layer with the same matrix, and no weight has one."""
    linear = quantized_linear(make_weight(), quantize)
    assert (linear.in_features, linear.out_features) == (256, 96)
    assert not any(part.requires_grad for part in linear.parameters()) and not list(linear.buffers())
    x = torch.randn(3, 5, 256, generator=torch.Generator().manual_seed(1), requires_grad=True)
    up = torch.randn(3, 5, 96, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad(linear(x), x, up)
    expected = up @ linear.dequantize(torch.float32)
    assert torch.allclose(found, expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        product = linear(x)
    (rounded,) = torch.autograd.grad(product, x, up.to(product.dtype))
    assert product.dtype == torch.bfloat16 and rounded.dtype == torch.float32
    assert (rounded - expected).norm() / expected.norm() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_backward_keeps_what_is_stored_and_nothing_else(quantize, dtype):
    linear = quantized_linear(make_weight(dtype=dtype), quantize)
    stored = {part.data_ptr() for part in linear.parameters()}
    kept = []
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda t: t):
        linear(x).sum().backward()
    assert {tensor.data_ptr() for tensor in kept} == stored
    assert sum(tensor.nbytes for tensor in kept if tensor.data_ptr() not in stored) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_an_empty_layer_has_the_same_tensors(quantize, dtype):
    real, empty = quantized_linear(make_weight(dtype=dtype), quantize), empty_linear(96, 256, quantize, dtype)
    assert type(real) is type(empty) and all(part.is_meta for part in empty.parameters())
    found, expected = (
        {name: (part.shape, part.dtype) for name, part in one.named_parameters()} for one in (empty, real)
    )
    assert found == expected


def test_no_more_than_one_tensor_is_ever_whole(tmp_path, monkeypatch):
    """Each matrix is stored in short before the next one is read."""
    import smalti.storage.folder

    save_denoiser(tiny_denoiser(), tmp_path)
    events = []
    real_read, real_quantize = smalti.storage.folder.read_tensor, quantized_linear
    monkeypatch.setattr(
        smalti.storage.folder, "read_tensor", lambda *a, **o: events.append("read") or real_read(*a, **o)
    )
    monkeypatch.setattr(
        smalti.storage.folder, "quantized_linear", lambda *a: events.append("store") or real_quantize(*a)
    )
    load_denoiser(tmp_path, quantize="int8")
    assert events == ["read", "store"] * 14


def test_a_pipeline(tmp_path):
    folder = write_tiny_model(tmp_path / "m")
    pipe = smalti.load(folder, quantize="int8")
    assert str(pipe.components.mode) == "int8 layers in float32 arithmetic"
    assert pipe("a red circle", seed=0, num_inference_steps=2).images[0].size == (64, 64)
    with pytest.raises(SmaltiError, match="quantize must be 'int8' or 'int4' or 'fp8', not 'int2'"):
        smalti.load(folder, quantize="int2")
    with pytest.raises(SmaltiError, match="quantize must be"):
        load_denoiser(folder, quantize="int2")


def test_without_torchao(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name.startswith("torchao"):
            raise ImportError("No module named 'torchao'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SmaltiError, match=r"quantize needs torchao: pip install 'smalti\[quantize\]'"):
        quantized_linear(make_weight(), "int8")
