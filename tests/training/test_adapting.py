"""Training of adapters: the base stays, a folder that peft's layout describes comes out, wrong configurations fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from adapter_steps import ADAPTER, adapter_steps, configured, make_task_of
from ranks import run_ranks
from safetensors.torch import load_file, save_file
from trainings import DENOISER, losses, write

import smalti
from smalti.errors import SmaltiError
from smalti.model.lora import LINEARS, AdapterShape, adapted_layers
from smalti.training.adapting import adapted_denoiser, adapted_shape, base_config
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import train_denoiser
from smalti.training.optimizer import trainable
from smalti.training.reading import load_config
from smalti.training.shape import check_basics

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_a_run(kind, workspace):
    config = configured(adapter={"kind": kind, "alpha": 4})
    assert train_denoiser(config)["step"] == 4
    folder = Path("adapter/model")
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "words.txt",
    ]
    described = json.loads((folder / "adapter_config.json").read_text())
    assert (described["r"], described["lora_alpha"], described["use_dora"]) == (2, 4.0, kind == "dora")
    pipe = smalti.load("denoiser/model", adapter=folder)
    assert len(list(adapted_layers(pipe.denoiser))) == 4
    assert pipe("a red circle", seed=0, num_inference_steps=2).images[0].size == (32, 32)
    # Checkpoints hold the trained tensors alone.
    (checkpoint,) = Path("adapter").glob("checkpoint-*")
    tensors = load_file(checkpoint / "weights.safetensors")
    assert len(tensors) == (12 if kind == "dora" else 8)
    assert all(".adapters.0." in name for name in tensors)
    assert all(value.abs().sum() > 0 for value in tensors.values())


@pytest.mark.slow
def test_a_stopped_run_goes_on(workspace):
    whole = losses_of(configured("whole"))
    config = configured("parts")
    half = config.model_copy(update={"loop": config.loop.model_copy(update={"steps": 2})})
    torch.manual_seed(0)
    first = losses_of(half)
    assert first[0] == whole[0]
    assert [step for step, _ in losses_of(config)] == [1, 2, 3, 4]


def losses_of(config):
    train_denoiser(config)
    return losses(config.output)


def test_the_base_is_frozen_and_stays(workspace):
    configured()
    task = make_task_of("adapter.yaml")
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    optimizer = torch.optim.Adam(trainable(task.model).values(), lr=0.01)
    for step in range(2):
        loss = task.loss(task.batch(range(4)), range(4), step)
        loss.weighted_sum.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in task.model.state_dict().items():
        assert torch.equal(value, before[name]) == (".adapters.0." not in name), name
    assert task.exported() == list(trainable(task.model))


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["int8", "int4", "fp8"])
def test_a_quantized_base(quantize, workspace):
    pytest.importorskip("torchao")
    config = configured(quantize, {"quantize": quantize})
    train_denoiser(config)
    found = losses(quantize)
    assert len(found) == 4
    pipe = smalti.load("denoiser/model", adapter=f"{quantize}/model", quantize=quantize)
    assert pipe("a red circle", seed=0, num_inference_steps=2).images


@pytest.mark.slow
def test_layers_that_are_computed_again(workspace):
    """With every layer computed again the losses are the same."""
    plain = configured("plain")
    again = configured("again", loop={**plain.loop.model_dump(), "recompute": 1})
    assert losses_of(plain) == losses_of(again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": None}, "adapter: needs start_from, the model that is adapted"),
        ({"adapter": {**ADAPTER, "targets": ["norm"]}}, "adapter.targets: targets must be among q_proj"),
        ({"adapter": {**ADAPTER, "targets": []}}, "adapter.targets: targets must name at least one"),
        ({"adapter": {**ADAPTER, "kind": "ia3"}}, "adapter.kind: input should be 'lora', 'rslora' or 'dora'"),
        ({"adapter": {**ADAPTER, "rank": 0}}, "adapter.rank: input should be greater than or equal to 1"),
        ({"code_network": 8}, "code_network: must be null with an adapter"),
    ],
)
def test_configurations_that_are_refused(changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SmaltiError, match=message):
        configured(**changes)


def test_a_model_section_of_another_model_is_refused(workspace):
    write("wrong.yaml", {})
    configured("wrong", model={"hidden_size": 32})
    with pytest.raises(SmaltiError, match="model.hidden_size must be 16, as in start_from, or be left out"):
        make_task_of("wrong.yaml")
    configured("same", model=DENOISER["model"])
    assert make_task_of("same.yaml").parts.model_config.hidden_size == 16


@pytest.mark.parametrize("quantize", [None, "int8", "int4", "fp8"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_bytes_before_the_base_is_read(kind, quantize, workspace):
    pytest.importorskip("torchao")
    config = configured(adapter={"kind": kind, "quantize": quantize})
    found = adapted_shape(config, base_config(config)).named_parameters()
    expected = adapted_denoiser(config).named_parameters()
    assert [describe(*one) for one in found] == [describe(*one) for one in expected]


def describe(name, parameter):
    return name, parameter.shape, parameter.dtype, parameter.requires_grad


def test_a_base_that_changed_is_refused_when_a_run_resumes(workspace):
    shutil.copytree("denoiser/model", "base")
    config = configured("resumed", start_from="base")
    losses_of(config)
    again = configured("resumed", start_from="base", loop={**config.loop.model_dump(), "steps": 5})
    weights = load_file("base/model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, "base/model.safetensors")
    with pytest.raises(SmaltiError, match="cannot be resumed: start_from, base, holds another model than at"):
        train_denoiser(again)
    save_file(weights, "base/model.safetensors")
    assert len(losses_of(again)) == 5


def test_quantized_weights_are_not_sharded(workspace):
    configured("sharded", {"quantize": "int8"}, distribution={"strategy": "fsdp"})
    with pytest.raises(SmaltiError, match="adapter.quantize needs distribution.strategy=ddp"):
        make_task_of("sharded.yaml")


@pytest.mark.slow
def test_two_processes(workspace, tmp_path):
    """Copies of the base, or shards of base and adapter: the same five steps."""
    configured(adapter={"kind": "dora"})
    (alone,) = adapter_steps({"alone": []}).values()
    shares = ["loop.batch_size=2", "loop.accumulate=2"]
    cases = {"ddp": shares, "fsdp": ["distribution.strategy=fsdp", *shares]}
    first, _ = run_ranks(2, adapter_steps, tmp_path, cases)
    for name, found in first.items():
        for (_, loss), (_, expected) in zip(found["losses"], alone["losses"], strict=True):
            assert loss == pytest.approx(expected, abs=5e-6), name
        assert found["weights"].keys() == alone["weights"].keys()
        for key, value in alone["weights"].items():
            torch.testing.assert_close(found["weights"][key], value, rtol=1e-4, atol=1e-5)
    ours, theirs = (
        smalti.load("denoiser/model", adapter=f"{name}/model").denoiser for name in ("alone", "fsdp")
    )
    tokens = torch.arange(16).view(1, 4, 4)
    prompt = smalti.load("denoiser/model").components.prompts(["a red circle"], 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens, prompt), theirs(tokens, prompt), rtol=1e-3, atol=1e-4)


def test_the_configuration_for_the_reference_model():
    config = load_config(DenoiserRunConfig, CONFIGS / "release-lora.yaml")
    assert config.adapter.shape == AdapterShape("lora", 16, 16.0, LINEARS)
    assert config.loop.recompute == 1 and config.loop.images == 8


def test_a_run_that_cannot_fit_says_what_would(workspace):
    configured("small", {"rank": 64, "targets": list(LINEARS)})
    config = load_config(DenoiserRunConfig, "small.yaml", ["loop.memory=9MB"])
    with pytest.raises(SmaltiError, match="the training needs .* on cpu, which has 9.0 MB: .* needs"):
        check_basics(config)
