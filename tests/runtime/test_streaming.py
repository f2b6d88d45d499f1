"""Layers that come to the device one after another. On a CPU the copies are made at once, by the same bookkeeping."""

from __future__ import annotations

import pytest
import torch
from adapters import write_adapter
from folders import write_tiny_model
from tiny import tiny_denoiser, tiny_prompts
from torch import nn

import smalti
from smalti.errors import SmaltiError
from smalti.model.adapter import Adapter
from smalti.model.lora import TARGETS, attach
from smalti.runtime.streaming import StreamedLayers
from smalti.storage.adapters import load_adapters, read_adapter
from smalti.storage.folder import load_denoiser, save_denoiser


def numbered(count):
    """Layers that are told apart by their weight."""
    layers = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(count))
    for index, layer in enumerate(layers):
        nn.init.constant_(layer.weight, float(index))
    return layers


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_every_layer_in_turn_pass_after_pass(count):
    layers = StreamedLayers(numbered(count), "cpu")
    for _ in range(4):
        assert [layer.weight.item() for layer in layers] == list(range(count))


def test_two_layers_at_a_time():
    layers = StreamedLayers(numbered(5), "cpu")
    seen = {id(layer) for layer in layers}
    assert len(seen) == 2 and not seen & {id(layer) for layer in layers._modules.values()}


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_a_pass_that_was_broken_off(taken):
    layers = StreamedLayers(numbered(4), "cpu")
    iterator = iter(layers)
    for _ in range(taken):
        next(iterator)
    iterator.close()
    for _ in range(2):
        assert [layer.weight.item() for layer in layers] == [0, 1, 2, 3]


def test_fetched_ahead(monkeypatch):
    """While a layer is in use the next one is on its way, and after the last the first two for the next pass."""
    layers = StreamedLayers(numbered(5), "cpu")
    events = []
    real = layers._fetch
    monkeypatch.setattr(
        layers, "_fetch", lambda turn, index: events.append(f"fetch {index}") or real(turn, index)
    )
    for layer in layers:
        events.append(f"use {int(layer.weight.item())}")
    assert events == [
        *("use 0", "fetch 2", "use 1", "fetch 3", "use 2", "fetch 4", "use 3", "fetch 0", "use 4", "fetch 1")
    ]


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_the_same_numbers(tmp_path, quantize):
    if quantize:
        pytest.importorskip("torchao")
    save_denoiser(tiny_denoiser(num_hidden_layers=3), tmp_path)
    plain, streamed = load_denoiser(tmp_path, quantize=quantize), load_denoiser(tmp_path, quantize=quantize)
    streamed.layers = StreamedLayers(streamed.layers, "cpu")
    prompt = tiny_prompts(plain, ["a red circle"])
    tokens = torch.full((1, 4, 4), plain.config.mask_code)
    with torch.inference_mode():
        expected = plain(tokens, prompt)
        for _ in range(3):
            assert torch.equal(streamed(tokens, prompt), expected)
    names = [name for name, _ in streamed.named_parameters()]
    assert names == [name for name, _ in plain.named_parameters()]
    if quantize is None:
        save_denoiser(streamed, tmp_path / "b")
        again = load_denoiser(tmp_path / "b").state_dict()
        assert all(torch.equal(weight, again[name]) for name, weight in plain.state_dict().items())


def test_on_a_cpu_it_is_nothing(tmp_path):
    folder = write_tiny_model(tmp_path / "m")
    pipe, plain = smalti.load(folder, offload="layers"), smalti.load(folder)
    assert not isinstance(pipe.denoiser.layers, StreamedLayers) and pipe.components.mode.offload is None
    settings = dict(seed=0, num_inference_steps=2, output_type="tokens")
    assert torch.equal(pipe("a cat", **settings).tokens, plain("a cat", **settings).tokens)
    with pytest.raises(SmaltiError, match="offload must be 'layers', not 'disk'"):
        smalti.load(folder, offload="disk")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("quantize", [None, "int8", "int4", "fp8"])
def test_on_a_gpu(tmp_path, quantize):
    if quantize in ("int8", "int4"):
        pytest.importorskip("torchao")
    save_denoiser(tiny_denoiser(num_hidden_layers=5, hidden_size=256, intermediate_size=512), tmp_path)
    options = dict(device="cuda", dtype=torch.bfloat16, quantize=quantize)
    plain, streamed = load_denoiser(tmp_path, **options), load_denoiser(tmp_path, **options, offload="layers")
    assert isinstance(streamed.layers, StreamedLayers)
    host = [*streamed.layers.parameters(), *streamed.layers.buffers()]
    assert all(tensor.is_pinned() for tensor in host)
    prompt = tiny_prompts(plain, ["a red circle"]).to("cuda")
    tokens = torch.full((1, 4, 4), plain.config.mask_code, device="cuda")
    with torch.inference_mode():
        expected = plain(tokens, prompt)
        for _ in range(20):
            assert torch.equal(streamed(tokens, prompt), expected)


@pytest.mark.parametrize("targets", [TARGETS, ("q_proj", "head")])
def test_layers_with_adapters(tmp_path, targets):
    base = write_tiny_model(tmp_path / "m", downsample=True, num_hidden_layers=3)
    write_adapter(tmp_path / "a", base, "dora", targets)
    plain, streamed = (load_denoiser(base) for _ in range(2))
    for denoiser in (plain, streamed):
        load_adapters(denoiser, base, [read_adapter(tmp_path / "a")], [1.0])
    streamed.layers = StreamedLayers(streamed.layers, "cpu")
    prompt = tiny_prompts(plain, ["a red circle"])
    tokens = torch.full((1, 4, 4), plain.config.mask_code)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(streamed(tokens, prompt), plain(tokens, prompt))


def test_layers_that_are_not_alike_are_refused(tmp_path):
    base = write_tiny_model(tmp_path / "m")
    denoiser = load_denoiser(base)
    attach(denoiser.layers[1].mlp.up_proj, Adapter(torch.zeros(2, 32), torch.zeros(48, 2), scale=1.0))
    with pytest.raises(SmaltiError, match="needs adapters that are of one shape in every layer"):
        StreamedLayers(denoiser.layers, "cpu")
