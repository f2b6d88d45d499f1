"""The memory of a training: the arithmetic against what PyTorch keeps, and what a mode changes."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from tiny import tiny_config, tiny_prompts
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smalti.model.config import DenoiserConfig
from smalti.model.denoiser import Denoiser
from smalti.objective.keeping import keeping_loss
from smalti.runtime import training_memory
from smalti.runtime.training_memory import (
    TrainingMode,
    _converted_bytes,
    kept_bytes,
    kept_prediction_bytes,
    training_need,
)
from smalti.storage.folder import NoInit

GRID, IMAGES = (16, 16), 2


def made(dtype: torch.dtype = torch.float32, **changes: object) -> Denoiser:
    sizes = {"hidden_size": 96, "num_attention_heads": 8, "head_dim": 16, "num_hidden_layers": 4}
    return Denoiser(tiny_config(**{**sizes, "intermediate_size": 256, **changes})).to(dtype)


def kept(denoiser: Denoiser, bf16: bool) -> tuple[int, float]:
    """The bytes that autograd keeps of a pass, without parameters, and the text ids of a prompt."""
    prompt = tiny_prompts(denoiser, ["a red circle"] * IMAGES, GRID)
    tokens = torch.zeros(IMAGES, *GRID, dtype=torch.int64)
    storages: dict[int, int] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        hidden = denoiser(tokens, prompt)
    assert hidden.requires_grad
    weights = {parameter.untyped_storage().data_ptr() for parameter in denoiser.parameters()}
    text = prompt.ids.shape[1] - prompt.slots
    return sum(count for place, count in storages.items() if place not in weights), text


@pytest.mark.parametrize("downsample", [True, False])
@pytest.mark.parametrize("recompute", [0, 1, 2])
@pytest.mark.parametrize(
    ("weights", "bf16"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, True)]
)
def test_what_a_pass_keeps(weights: torch.dtype, bf16: bool, recompute: int, downsample: bool) -> None:
    denoiser = made(weights, downsample=downsample)
    denoiser.recompute(recompute)
    found, text = kept(denoiser, bf16)
    mode = TrainingMode(IMAGES, GRID, text, weights, bf16, recompute, device="cpu")
    computed = IMAGES * kept_bytes(denoiser.config, mode) + _converted_bytes(denoiser.config, mode)
    if bf16 and weights == torch.float32:
        computed -= 2 * denoiser.config.codebook_size * denoiser.config.hidden_size  # no head here
    if recompute and bf16 and weights == torch.float32:
        # Autocast keeps their converted matrices during the pass, but their gradient does not need them.
        matrices = sum(p.numel() for name, p in denoiser.named_parameters() if "proj" in name)
        computed -= 2 * matrices / recompute
    if recompute:  # the layer that is computed again is not kept yet
        whole = replace(mode, recompute=0)
        one, none = (
            kept_bytes(replace_layers(denoiser.config, count), whole)
            for count in (denoiser.config.num_hidden_layers, denoiser.config.num_hidden_layers - 1)
        )
        computed -= IMAGES * (one - none)
    assert computed == pytest.approx(found, rel=0.1)


def replace_layers(config: DenoiserConfig, layers: int) -> DenoiserConfig:
    return replace(config, num_hidden_layers=layers)


def test_parts_of_a_whole_training_and_of_a_frozen_one() -> None:
    denoiser = made()
    count = sum(parameter.numel() for parameter in denoiser.parameters())
    mode = TrainingMode(4, GRID, 20, bf16=False, device="cpu")
    parts = training_need(denoiser.parameters(), denoiser.config, mode).parts
    assert parts["weights"] == parts["gradients"] == parts["average"] == 4 * count
    assert parts["optimizer"] == 8 * count
    small = replace(mode, weights=torch.bfloat16, bf16=True, optimizer="adamw8bit", averaged=False)
    parts = training_need(denoiser.parameters(), denoiser.config, small).parts
    assert parts["weights"] == parts["gradients"] == 2 * count and "average" not in parts
    assert parts["optimizer"] == pytest.approx(2 * count, rel=0.02)
    half = training_need(denoiser.parameters(), denoiser.config, replace(mode, shards=2)).parts
    assert half["weights"] == 2 * count and half["gathered"] > 0
    denoiser.requires_grad_(False)
    denoiser.norm.weight.requires_grad_()
    parts = training_need(denoiser.parameters(), denoiser.config, mode).parts
    assert parts["gradients"] == 4 * 96 and parts["weights"] == 4 * count


class Peak(TorchDispatchMode):
    """The most bytes of tensors that exist at once, of those that are made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if torch.is_tensor(one)}
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            storage = one.untyped_storage() if torch.is_tensor(one) else None
            if storage is not None and storage._cdata not in self.known | given:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return result

    def forget(self, key: int, count: int) -> None:
        self.known.discard(key)
        self.now -= count


@pytest.mark.parametrize("codes", [64, 4096])
def test_what_kept_predictions_need(codes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few codes the vectors count, with many the chunk of log-probabilities."""
    monkeypatch.setattr(training_memory, "_CHUNK_BYTES", {"cpu": 0})
    denoiser = made(codebook_size=codes).requires_grad_(False)
    before = torch.randn(IMAGES, GRID[0] * GRID[1], 96)
    hidden = torch.randn_like(before, requires_grad=True)
    masked = torch.ones(IMAGES, *GRID, dtype=torch.bool)
    with Peak() as peak:
        taken = hidden[torch.arange(IMAGES)]
        loss = keeping_loss(before, taken, denoiser.gen_predictor, masked, masked.float())
        del taken
        loss.weighted_sum.backward()
    mode = TrainingMode(IMAGES, GRID, 0, bf16=False, device="cpu", keeps=True)
    config = denoiser.config
    computed = kept_prediction_bytes(config, mode)
    need = training_need(denoiser.parameters(), config, mode)
    without = training_need(denoiser.parameters(), config, replace(mode, keeps=False))
    assert need.total - without.total == round(computed)
    # The rows and the gradient of the head's own part are counted there; the frozen vectors were made before.
    vectors = before.numel() * before.element_size()
    assert peak.most == pytest.approx(computed + vectors, rel=0.15)


def test_the_reference_model_in_bf16_with_8_bit_moments_needs_less_than_one_large_gpu() -> None:
    """Computed, not measured: the reference model's shape on one GPU of 80 GB."""
    config = DenoiserConfig(
        hidden_size=4096,
        num_hidden_layers=34,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=14336,
        vocab_size=131072,
        codebook_size=131072,
    )
    with torch.device("meta"), NoInit():
        denoiser = Denoiser(config)
    mode = TrainingMode(1, (64, 64), 128, torch.bfloat16, True, 1, "adamw8bit", averaged=False)
    need = training_need(denoiser.parameters(), config, mode)
    assert 50e9 < need.total < 75e9
    assert need.parts["activations"] < 3e9
    assert training_need(denoiser.parameters(), config, replace(mode, recompute=0)).total > need.total + 5e9
