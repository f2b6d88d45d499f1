"""Products of quantized layers in 8 bits."""

from __future__ import annotations

import pytest
import torch
from folders import write_tiny_model
from tiny import tiny_denoiser, tiny_prompts

import smalti
from smalti.errors import SmaltiError
from smalti.runtime import scaled_products
from smalti.runtime.quantization import RowLinear, quantized_linear, round_activations
from smalti.runtime.scaled_products import INT_MM, PLAIN, choose_kernel, round_rows, scaled_product
from smalti.runtime.streaming import StreamedLayers

pytest.importorskip("torchao")
DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
# The most that rounding normally distributed rows may cost, as a share of the result's size.
ERRORS = {"int8": 0.015, "fp8": 0.05}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("quantize", DTYPES)
def test_rows_are_rounded_by_themselves(quantize):
    x = normal(7, 64)
    x[2] *= 1e4
    x[3], x[4, 5] = 0.0, float("nan")
    rounded, scale = round_rows(x, DTYPES[quantize])
    assert rounded.dtype == DTYPES[quantize] and scale.shape == (7, 1)
    found = rounded.float() * scale
    for row in (0, 1, 2, 5, 6):
        assert (found[row] - x[row]).norm() / x[row].norm() < ERRORS[quantize]
        assert torch.equal(round_rows(x[row : row + 1], DTYPES[quantize])[0][0].float(), rounded[row].float())
    assert not found[3].any() and found[4].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("quantize", DTYPES)
def test_products_are_close(quantize, dtype):
    weight, x = normal(48, 96) * 0.02, normal(2, 3, 96, seed=1).to(dtype)
    layer, expected = quantized_linear(weight, quantize), x.float() @ weight.T
    assert isinstance(layer, RowLinear)
    before = layer(x)
    layer.kernel = choose_kernel(layer.stored)
    found = layer(x)
    assert found.dtype == dtype and found.shape == (2, 3, 48) and not torch.equal(found, before)
    assert (found.float() - expected).norm() / expected.norm() < ERRORS[quantize]


@pytest.mark.parametrize("rows", [1, 40])
def test_integer_products_are_exact(rows):
    layer, x = quantized_linear(normal(32, 64), "int8"), normal(rows, 64, seed=1)
    plain = scaled_product(x, layer.stored, layer.scale, PLAIN)
    assert torch.equal(scaled_product(x, layer.stored, layer.scale, INT_MM), plain)


@pytest.mark.skipif(not hasattr(torch, "_scaled_mm"), reason="needs PyTorch's scaled product")
def test_fp8_products_are_those_of_float32():
    layer, x = quantized_linear(normal(32, 64), "fp8"), normal(40, 64, seed=1).bfloat16()
    plain = scaled_product(x, layer.stored, layer.scale, PLAIN)
    try:
        found = scaled_product(x, layer.stored, layer.scale, scaled_products.SCALED_MM)
    except RuntimeError as error:
        pytest.skip(str(error))
    torch.testing.assert_close(found, plain, rtol=2**-7, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("quantize", DTYPES)
def test_a_gpu_computes_the_same(quantize):
    layer, x = quantized_linear(normal(256, 512), quantize).cuda(), normal(64, 512, seed=1).bfloat16().cuda()
    kernel = choose_kernel(layer.stored)
    plain = scaled_product(x, layer.stored, layer.scale, PLAIN).float()
    found = scaled_product(x, layer.stored, layer.scale, kernel).float()
    assert (found - plain).norm() / plain.norm() < 0.01
    if torch.cuda.get_device_capability() >= (9, 0):
        assert kernel != PLAIN


def test_a_processor_without_the_instructions_multiplies_in_float32(monkeypatch):
    stored = quantized_linear(normal(16, 32), "int8").stored
    for supported, kernel in ((True, INT_MM), (False, PLAIN)):
        scaled_products._kernel.cache_clear()
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda found=supported: found, raising=False)
        assert choose_kernel(stored) == kernel
    scaled_products._kernel.cache_clear()
    assert choose_kernel(stored.to("meta")) == PLAIN


def test_every_layer_of_a_denoiser_rounds(tmp_path):
    folder = write_tiny_model(tmp_path)
    denoiser = smalti.load(folder, quantize="int8").denoiser
    prompts = tiny_prompts(denoiser, ["a red circle", "a blue square"])
    tokens = torch.full((2, 4, 4), denoiser.config.mask_code)
    with torch.inference_mode():
        before = denoiser(tokens, prompts)
        count = round_activations(denoiser)
        found = denoiser(tokens, prompts)
        assert count == sum(isinstance(part, RowLinear) for part in denoiser.modules()) > 0
        assert 0 < (found - before).norm() / before.norm() < 0.05
        denoiser.layers = StreamedLayers(denoiser.layers, "cpu")
        assert torch.equal(denoiser(tokens, prompts), found)
        assert round_activations(denoiser) > count, "those that layers are copied into count as well"


def test_gradients_do_without():
    layer, x = quantized_linear(normal(16, 32), "int8"), normal(4, 32, seed=1).requires_grad_()
    expected = layer(x)
    layer.kernel = choose_kernel(layer.stored)
    assert torch.equal(layer(x), expected)


def test_loading(tmp_path):
    folder = write_tiny_model(tmp_path)
    pipe = smalti.load(folder, quantize="int8", quantize_activations=True)
    assert str(pipe.components.mode) == "int8 layers in float32 arithmetic, activations rounded to 8 bits"
    assert pipe("a red circle", seed=0, num_inference_steps=2).images
    for quantize in (None, "int4"):
        with pytest.raises(SmaltiError, match="quantize_activations needs layers in int8 or fp8") as found:
            smalti.load(folder, quantize=quantize, quantize_activations=True)
        assert found.value.argument == "quantize_activations"


def test_nan_is_found(tmp_path):
    denoiser = tiny_denoiser()
    for layer in denoiser.layers:
        layer.mlp.down_proj = quantized_linear(layer.mlp.down_proj.weight.detach(), "int8")
    round_activations(denoiser)
    with torch.inference_mode():
        layer = denoiser.layers[0].mlp.down_proj
        x = torch.full((2, layer.in_features), float("nan"))
        assert layer(x).isnan().all()
