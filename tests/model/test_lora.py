"""Adapters in a denoiser: what they compute, where they can be, what learns."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from adapters import shake
from tiny import GRID, generators, tiny_denoiser, tiny_prompts

from smalti.errors import SmaltiError
from smalti.model.adapter import Adapter
from smalti.model.lora import (
    LINEARS,
    TARGETS,
    AdapterShape,
    adapted_layers,
    adapters_of,
    adapters_off,
    add_adapters,
    all_adapters,
    attach,
    merge_adapters,
    set_strength,
)
from smalti.ops.gce import grouped_cross_entropy
from smalti.reading.likelihood import log_probabilities
from smalti.runtime.quantization import quantized_linear
from smalti.sampling.guidance import Guidance
from smalti.sampling.refinement import RareRefinement
from smalti.sampling.sampler import Sampler, sample

KINDS = ["lora", "rslora", "dora"]
TOKENS = torch.arange(32).view(2, 4, 4)


def adapted(kind="lora", targets=TARGETS, rank=3, seed=1, **changes):
    """A denoiser with new adapters, and one like it without."""
    plain = tiny_denoiser(downsample=True, scale=3.0, **changes)
    denoiser = copy.deepcopy(plain)
    shape = AdapterShape(kind, rank, 2.0 * rank, targets)
    add_adapters(denoiser, shape, torch.Generator().manual_seed(seed))
    return denoiser, plain


def log_p(denoiser):
    hidden = denoiser(TOKENS, tiny_prompts(denoiser, ["a red circle", "two dogs"])).flatten(0, 1)
    return denoiser.gen_predictor.run(loss_of, hidden)


def loss_of(hidden, weight, **options):
    return grouped_cross_entropy(hidden, weight, TOKENS.flatten(), **options).token_loss


def loss(denoiser):
    hidden = denoiser(TOKENS, tiny_prompts(denoiser, ["a red circle", "two dogs"])).flatten(0, 1)

    def operator(hidden, weight, **options):
        return grouped_cross_entropy(hidden, weight, TOKENS.flatten(), **options).loss

    return denoiser.gen_predictor.run(operator, hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_new_adapters_change_nothing(kind):
    denoiser, plain = adapted(kind)
    with torch.inference_mode():
        torch.testing.assert_close(log_p(denoiser), log_p(plain), rtol=1e-5, atol=1e-5)
    trained = [name for name, parameter in denoiser.named_parameters() if parameter.requires_grad]
    assert all(".adapters.0." in name for name in trained)
    assert len(trained) == (3 if kind == "dora" else 2) * (2 * 7 + 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_adapter_tensor_gets_a_gradient(kind):
    """B at the first step, where A cannot have one because B is 0; A at the second."""
    denoiser, _ = adapted(kind)
    optimizer = torch.optim.SGD([p for p in denoiser.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        loss(denoiser).backward()
        for name, parameter in denoiser.named_parameters():
            if not parameter.requires_grad:
                assert parameter.grad is None, name
            elif step == 1 or not name.endswith("down"):
                assert parameter.grad is not None and bool((parameter.grad != 0).any()), name
        optimizer.step()


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_its_matrices_say(kind, strength):
    denoiser, plain = adapted(kind)
    shake(denoiser)
    set_strength(denoiser, "default", strength)
    scale = 2 * math.sqrt(3) if kind == "rslora" else 2.0
    with torch.no_grad():
        for name, layer in adapted_layers(denoiser):
            (adapter,) = adapters_of(layer)
            weight = plain.get_submodule(name).weight
            flat = weight.flatten(1) + scale * adapter.up.flatten(1) @ adapter.down.flatten(1)
            if kind == "dora":
                flat *= (adapter.magnitude / flat.norm(dim=1))[:, None]
            weight.lerp_(flat.view_as(weight), strength)
        expected, found = log_p(plain), log_p(denoiser)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        merge_adapters(denoiser)
        assert not list(adapted_layers(denoiser))
        assert denoiser.state_dict().keys() == plain.state_dict().keys()
        torch.testing.assert_close(log_p(denoiser), expected, rtol=1e-4, atol=1e-4)


def test_several_add_up_and_can_be_off():
    denoiser, plain = adapted("lora", LINEARS)
    shake(denoiser)
    first = copy.deepcopy(denoiser)
    layers = dict(denoiser.named_modules())
    for name in ("layers.0.self_attn.v_proj", "gen_predictor"):
        out, inner = layers[name].weight.shape
        generator = torch.Generator().manual_seed(5)
        down, up = torch.randn(2, inner, generator=generator), torch.randn(out, 2, generator=generator)
        attach(layers[name], Adapter(down / 4, up / 4, layers[name].weight.norm(dim=1), scale=1, label="b"))
    with torch.inference_mode():
        both, alone, none = log_p(denoiser), log_p(first), log_p(plain)
        assert (both - alone).abs().max() > 0.01 and (alone - none).abs().max() > 0.01
        set_strength(denoiser, "b", 0.0)
        torch.testing.assert_close(log_p(denoiser), alone)
        set_strength(denoiser, "b", 1.0)
        with adapters_off(denoiser):
            torch.testing.assert_close(log_p(denoiser), none)
        torch.testing.assert_close(log_p(denoiser), both)
        merge_adapters(denoiser)
        torch.testing.assert_close(log_p(denoiser), both, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantize", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_quantized_base(kind, quantize):
    """The output is that of a float layer with the same numbers; every adapter learns; nothing can be merged."""
    pytest.importorskip("torchao")
    plain = tiny_denoiser(downsample=True, scale=3.0)
    for layer in plain.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                stored = quantized_linear(child.weight.detach(), quantize)
                child.weight.data = stored.dequantize(torch.float32)
                setattr(part, name, stored)
    floats = tiny_denoiser(downsample=True, scale=3.0)
    for name, module in plain.named_modules():
        if hasattr(module, "dequantize"):
            floats.get_submodule(name).weight.data = module.dequantize(torch.float32)
    shape = AdapterShape(kind, 3, 6.0, TARGETS)
    for denoiser in (plain, floats):
        add_adapters(denoiser, shape, torch.Generator().manual_seed(1))
        shake(denoiser)
    torch.testing.assert_close(loss(plain), loss(floats), rtol=1e-4, atol=1e-4)
    for one, other in zip(gradients(plain), gradients(floats), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    with pytest.raises(
        SmaltiError, match="q_proj is quantized: adapters are merged into float weights alone"
    ):
        merge_adapters(plain)
    assert len(list(adapted_layers(plain))) == 16


def gradients(denoiser):
    return torch.autograd.grad(loss(denoiser), [p for p in denoiser.parameters() if p.requires_grad])


def test_dropout_is_for_training():
    denoiser, plain = adapted()
    shake(denoiser)
    for adapter in all_adapters(denoiser):
        adapter.dropout = 0.5
    with torch.no_grad():
        expected = log_p(denoiser)
        denoiser.train()
        torch.manual_seed(0)
        assert (log_p(denoiser) - expected).abs().max() > 0.01
        denoiser.eval()
        assert torch.equal(log_p(denoiser), expected)


def test_a_bf16_base_keeps_adapters_in_float32():
    plain = tiny_denoiser(downsample=True, scale=3.0).bfloat16()
    add_adapters(plain, AdapterShape("dora", 3, targets=TARGETS), torch.Generator())
    assert {p.dtype for p in plain.parameters() if p.requires_grad} == {torch.float32}
    shake(plain)
    found = loss(plain)
    found.backward()
    assert all(p.grad.dtype == torch.float32 for p in plain.parameters() if p.requires_grad)
    with torch.autocast("cpu", torch.bfloat16):
        assert abs(loss(plain.float()) - found) < 0.3


def test_cross_attention_and_models_without_the_compression():
    denoiser = tiny_denoiser(conditioning="cross_attention")
    add_adapters(denoiser, AdapterShape(targets=("q_proj",)), torch.Generator())
    names = {name for name, _ in adapted_layers(denoiser)}
    assert {"layers.0.cross_attn.q_proj", "text_layers.1.self_attn.q_proj"} <= names
    denoiser = tiny_denoiser(downsample=False)
    with pytest.raises(SmaltiError, match="targets: the model has no downsample to adapt"):
        add_adapters(denoiser, AdapterShape(targets=("downsample",)), torch.Generator())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "ia3"}, "kind must be 'lora' or 'rslora' or 'dora', not 'ia3'"),
        ({"rank": 0}, "rank must be a whole number from 1 to 65536, not 0"),
        ({"alpha": 0}, "alpha must be a finite number above 0 and at most 1000000.0, not 0"),
        ({"dropout": 1.0}, "dropout must be a finite number of at least 0 and at most 0.99, not 1.0"),
        ({"targets": ()}, "targets must name at least one"),
        ({"targets": ("norm",)}, "targets must be among q_proj, .*, head, not 'norm'"),
    ],
)
def test_wrong_shapes_are_refused(changes, message):
    with pytest.raises(SmaltiError, match=message):
        AdapterShape(**changes)


def test_an_adapter_of_other_shapes_is_refused():
    layer = torch.nn.Linear(4, 6, bias=False)
    for down, up in (((2, 5), (6, 2)), ((2, 4), (5, 2)), ((2, 4), (6, 3)), ((2, 4, 2, 2), (6, 2))):
        with pytest.raises(SmaltiError, match="must be"):
            attach(layer, Adapter(torch.zeros(down), torch.zeros(up), scale=1))
    assert not adapters_of(layer)


def test_sampling_and_reading_see_the_adapters_of_the_head():
    """A sampler draws the tokens of the merged model, and its log-likelihoods are those of the merged model."""
    denoiser, _ = adapted("dora")
    shake(denoiser)
    merged = copy.deepcopy(denoiser)
    merge_adapters(merged)
    prompt = tiny_prompts(denoiser, ["a red circle"])
    sampler = Sampler(8, guidance=Guidance(1.0), refinement=RareRefinement(0.25, 0.1))
    *_, first = sample(denoiser, prompt, grid=GRID, sampler=sampler, generators=generators(3))
    *_, second = sample(merged, prompt, grid=GRID, sampler=sampler, generators=generators(3))
    assert torch.equal(first.tokens, second.tokens)
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    found, expected = (log_probabilities(one, prompt, TOKENS[0], masks) for one in (denoiser, merged))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
