"""Masked diffusion, autoregression and flow matching on one backbone, at a tiny size."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch
from paradigms import autoregression, flow
from paradigms.autoregression import AutoregressiveSettings, CachedReader, PlainReader
from paradigms.backbone import from_cells, run_backbone, to_cells
from paradigms.drawing import VARIANTS, counting_passes, decode, draw, of_one_length
from paradigms.training import PARADIGMS, denoiser_of, load_trained, make_task, normal, train
from safetensors.torch import load_file

from smalti.common.randomness import Draws
from smalti.training.loop import Trainer

TEXTS = ["a red circle", "a photo of two blue squares", "a photo of a star"]


@pytest.fixture(scope="module")
def trained(budget):
    """Return each paradigm after its training."""
    for paradigm in PARADIGMS:
        train(budget, paradigm, 1)
    return {paradigm: load_trained(budget, paradigm, 1) for paradigm in PARADIGMS}


@pytest.fixture
def large(trained):
    """Return an autoregressive model whose tokens depend on everything before them."""
    model = trained["autoregressive"].model
    generator = torch.Generator().manual_seed(0)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    yield trained["autoregressive"]
    model.load_state_dict(kept)


def grids(count: int) -> torch.Tensor:
    return torch.randint(0, 4096, (count, 4, 4), generator=torch.Generator().manual_seed(3))


def test_cells_are_cut_and_put_together():
    grid = torch.arange(24).reshape(1, 4, 6)
    cells = to_cells(grid)
    assert cells[0, 1].tolist() == [2, 3, 8, 9]
    assert torch.equal(from_cells(cells, 2, 3), grid)


def test_the_backbone_without_a_mask_is_the_denoiser(tasks):
    task = tasks["masked"]
    denoiser, prompt, tokens = task.model, task.prompts(TEXTS), grids(3)
    assert prompt.padded
    hidden = run_backbone(denoiser, denoiser.embed_image(tokens), prompt, (2, 2))
    torch.testing.assert_close(denoiser.expand(hidden, 2, 2), denoiser(tokens, prompt))


def test_all_paradigms_start_with_the_same_backbone(tasks):
    layers = [
        torch.cat([value.flatten() for value in denoiser_of(task.model).layers.parameters()])
        for task in tasks.values()
    ]
    assert torch.equal(layers[0], layers[1]) and torch.equal(layers[0], layers[2])


def test_all_paradigms_see_the_same_images(tasks):
    batches = [task.batch(range(5, 9)) for task in tasks.values()]
    for other in batches[1:]:
        assert torch.equal(batches[0].targets, other.targets)
        assert torch.equal(batches[0].prompt.ids, other.prompt.ids)


def test_a_token_depends_on_earlier_ones_alone(large):
    model, prompt, tokens = large.model, large.prompts(TEXTS[:2]), grids(2)
    changed = tokens.clone()
    changed[:, 0, 3] += 1  # the second token of the second cell
    with torch.no_grad():
        before, after = model(tokens % 4095, prompt), model(changed % 4095, prompt)
    same = (before - after).abs().amax(dim=(0, 3)) < 1e-6
    assert same.flatten().tolist() == [True] * 6 + [False] * 10


@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_autoregression_with_a_cache_equals_that_without(large, scale):
    numbers, prompt = next(of_one_length(large, ["a red star", "a blue star"], 2))
    settings = AutoregressiveSettings(guidance_scale=scale, top_p=0.9)
    found = [
        autoregression.generate(
            large.model,
            prompt,
            (4, 4),
            settings,
            [torch.Generator().manual_seed(number) for number in numbers],
            reader=reader,
        )
        for reader in (CachedReader, PlainReader)
    ]
    assert torch.equal(*found)
    assert len(found[0].unique()) > 4


def test_autoregression_draws_what_it_was_trained_for(large):
    """Return to the training's pass: its most probable tokens are those that drawing without chance finds."""
    _, prompt = next(of_one_length(large, TEXTS[:1], 1))
    settings = AutoregressiveSettings(guidance_scale=0.0, temperature=0.0)
    tokens = autoregression.generate(large.model, prompt, (4, 4), settings, [torch.Generator()])
    with torch.no_grad():
        logits = large.model(tokens, prompt) @ large.model.denoiser.head.T
    assert torch.equal(from_cells(logits.argmax(dim=-1), 2, 2), tokens)


@pytest.mark.parametrize("solver", flow.SOLVERS)
def test_a_straight_field_needs_one_step(solver):
    x = torch.tensor([1.0, -2.0])
    found = flow.integrate(lambda x, t: torch.full_like(x, 3.0), x, [0.0, 1.0], solver)
    torch.testing.assert_close(found, x + 3)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2)])
def test_the_integration_recovers_a_known_field(solver, order):
    x = torch.ones(1, dtype=torch.float64)

    def error(steps: int) -> float:
        found = flow.integrate(lambda x, t: x * math.cos(3 * t), x, flow.times(steps, 1.0), solver)
        return abs(float(found) - math.exp(math.sin(3.0) / 3))

    assert error(128) < 0.01
    assert math.log2(error(64) / error(128)) == pytest.approx(order, abs=0.25)


def test_shifted_times_begin_where_there_is_noise():
    moments = flow.times(4, 3.0)
    assert moments[0] == 0 and moments[-1] == 1
    assert moments == sorted(moments) and moments[2] < 0.5
    assert flow.times(4, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_latents_are_normal_and_lead_back_to_tokens(tasks):
    task = tasks["flow"]
    model, counts = task.model, task.parts.counts
    seen = counts.repeat_interleave(counts).new_tensor(range(len(counts))).repeat_interleave(counts)
    latents = model.latents(seen[None, None])
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3), correction=0), torch.ones(16), atol=1e-3, rtol=0)
    tokens = grids(1)
    pixels = flow.decode(task.parts.image_tokenizer, model.vectors(model.latents(tokens)), snap=True)
    assert torch.equal(pixels, decode(task, tokens, {}))


def test_normal_numbers_are_normal():
    found = normal(Draws.of(0, "test", range(8)), 2000)
    assert abs(float(found.mean())) < 0.03 and abs(float(found.std()) - 1) < 0.03


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_a_resumed_training_gives_the_same_weights(budget, trained, tmp_path, paradigm):
    other = dataclasses.replace(budget, output=tmp_path)
    other.shards.symlink_to(budget.shards)
    trainer = Trainer(make_task(other, paradigm, 1), other.run_config(paradigm, 1))
    batches = trainer._batches()
    for _ in range(2):
        trainer.step(batches)
    batches.close()
    trainer.save()
    trainer.saver.finish()
    train(other, paradigm, 1)
    files = [where.folder(paradigm, 1) / "model/model.safetensors" for where in (budget, other)]
    whole, resumed = (load_file(file) for file in files)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_draws_images_and_its_passes_are_counted(trained, name):
    variant = VARIANTS[name]
    task = trained[variant.paradigm]
    _, prompt = next(of_one_length(task, TEXTS[:1] * 2, 2))
    with counting_passes(task) as passes:
        found = draw(task, prompt, 3, variant.base, [0, 1])
    pixels = decode(task, found, variant.base)
    assert pixels.shape == (2, 3, 64, 64) and pixels.dtype == torch.uint8
    one = draw(task, prompt.select([1]), 3, variant.base, [1])
    torch.testing.assert_close(found[1:], one)
    cells_or_steps = {"autoregressive": 4, "flow, Heun": 5}
    assert passes.count == 2 * 2 * cells_or_steps.get(name, 3)


def test_continuous_vectors_can_be_decoded_without_codes(trained):
    _, prompt = next(of_one_length(trained["flow"], TEXTS[:1], 1))
    settings = {**VARIANTS["flow, Euler"].base, "snap": False}
    found = draw(trained["flow"], prompt, 2, settings, [0])
    assert decode(trained["flow"], found, settings).shape == (1, 3, 64, 64)


def test_settings_of_a_variant_are_known():
    for variant in VARIANTS.values():
        assert set(variant.choices) <= set(variant.base)
        assert all(re.fullmatch(r"[a-z_]+", key) for key in variant.base)
