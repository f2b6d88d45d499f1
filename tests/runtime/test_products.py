"""The arithmetic of a training's matrix products against PyTorch's counter."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_denoiser, tiny_prompts
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from smalti.ops.gce import grouped_cross_entropy
from smalti.runtime.products import forward_products, training_products

GRID, IMAGES = (8, 8), 2


@pytest.mark.parametrize(
    "changes",
    [{}, {"downsample": False}, {"conditioning": "cross_attention", "image_positions": "axial"}],
    ids=["compressed", "plain", "cross"],
)
def test_forward_and_training(changes: dict) -> None:
    denoiser = tiny_denoiser(num_key_value_heads=4, **changes)
    prompt = tiny_prompts(denoiser, ["a red circle"] * IMAGES, GRID)
    tokens = torch.zeros(IMAGES, *GRID, dtype=torch.int64)
    text = prompt.ids.shape[1] - prompt.slots
    # The counter does not know the CPU's kernel of attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        hidden = denoiser(tokens, prompt)
        hidden.flatten(0, 1) @ denoiser.head.T
    computed = IMAGES * forward_products(denoiser.config, GRID, text)
    assert computed == pytest.approx(forward.get_total_flops(), rel=0.02)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as training:
        hidden = denoiser(tokens, prompt)
        loss = denoiser.gen_predictor.run(
            lambda rows, weight: grouped_cross_entropy(rows, weight, tokens.flatten()), hidden.flatten(0, 1)
        )
        loss.loss.backward()
    computed = IMAGES * training_products(denoiser.config, GRID, text)
    assert computed == pytest.approx(training.get_total_flops(), rel=0.1)
