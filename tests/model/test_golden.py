"""Parity with the outputs that the vendor's code gave for the tiny checkpoint in data/golden."""

from __future__ import annotations

import functools

import pytest
import torch
from safetensors.torch import load_file
from tiny import GOLDEN, generators, golden_expectations

from smalti.common.low_discrepancy import stratified_order
from smalti.model.prompt import build_prompts
from smalti.ops.sample import sample_tokens
from smalti.sampling.budgets import ShiftBudget
from smalti.sampling.guidance import Guidance
from smalti.sampling.orders import ConfidenceOrder, StratifiedOrder
from smalti.sampling.revision import NoRevision, ThresholdRevision
from smalti.sampling.sampler import Sampler, sample
from smalti.sampling.temperatures import (
    CosineTemperature,
    ExponentialTemperature,
    LinearTemperature,
    ShiftTemperature,
)
from smalti.storage.folder import load_denoiser, load_text_tokenizer

EXPECTED = load_file(GOLDEN / "expected.safetensors")
CASES = {name: case for name, case in golden_expectations().items() if name != "common"}
COMMON = golden_expectations()["common"]
SCHEDULES = {
    "linear": LinearTemperature(),
    "cosine2": CosineTemperature(),
    "shift3": ShiftTemperature(3),
    "exp": ExponentialTemperature(),
}


@pytest.fixture(scope="module")
def denoiser():
    return load_denoiser(GOLDEN)


@pytest.fixture(scope="module")
def prompt(denoiser):
    return prompts(denoiser, [COMMON["prompt"]])


def prompts(denoiser, texts):
    return build_prompts(
        texts,
        denoiser.config.prompt,
        load_text_tokenizer(GOLDEN),
        height=COMMON["image"],
        width=COMMON["image"],
        slots=denoiser.config.slots(*COMMON["grid"]),
    )


def test_prompt_ids(prompt):
    assert torch.equal(prompt.ids, EXPECTED["input_ids"].long())


def test_hidden_states_and_logits(denoiser, prompt):
    seen = {}
    hooks = [
        denoiser.layers[0].register_forward_hook(lambda *event: seen.update(first=event[2])),
        denoiser.layers[-1].register_forward_hook(lambda *event: seen.update(last=event[2])),
    ]
    with torch.inference_mode():
        hidden = denoiser(torch.full((1, *COMMON["grid"]), COMMON["mask_id"]), prompt)
        logits = hidden[0] @ denoiser.head.T
        final = denoiser.norm(seen["last"])
    for hook in hooks:
        hook.remove()
    start = int(prompt.slot_start[0])
    for name, ours in {
        "layer0_output_first8": seen["first"][:, :8],
        "hidden_last_first8": final[:, :8],
        "hidden_last_image_first8": final[:, start : start + 8],
        "logits_allmask_first16": logits[:16],
    }.items():
        torch.testing.assert_close(ours, EXPECTED[name], atol=2e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert torch.equal(logits.argmax(dim=1), EXPECTED["logits_allmask_argmax"].long())


def run_case(denoiser, prompt, case):
    """The steps of a case, on as many images as there are prompts, and its settings."""
    settings = {**COMMON, **(CASES[case] if case in CASES else {"n_steps": 1, "total_edited": 0})}
    threshold = settings.get("edit_threshold", 0.0)
    sampler = Sampler(
        steps=settings["n_steps"],
        budget=ShiftBudget(settings["shift"]),
        order=ConfidenceOrder() if settings.get("confidence_policy") == "mmada" else StratifiedOrder(),
        revision=ThresholdRevision(threshold) if threshold > 0 else NoRevision(),
        guidance=Guidance(settings.get("guidance_scale", 0.0), settings.get("cfg_interval", (0, 1))),
        argmax=True,
        final="release",
    )
    seeds = generators(*range(len(prompt)))
    return settings, list(
        sample(denoiser, prompt, grid=tuple(COMMON["grid"]), sampler=sampler, generators=seeds)
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "1step"])
def test_tokens(denoiser, prompt, case, monkeypatch):
    calls = []

    def remembered(*tensors, **options):
        calls.append((tensors, options, sample_tokens(*tensors, **options)))
        return calls[-1][-1]

    monkeypatch.setattr("smalti.sampling.predictor.sample_tokens", remembered)
    settings, steps = run_case(denoiser, prompt, case)
    assert torch.equal(steps[-1].tokens.flatten(1), EXPECTED[f"tokens_{case}"].long())
    assert sum(int(step.edited.sum()) for step in steps) == settings["total_edited"]
    assert sum(int(step.revealed.sum()) for step in steps) == 64 * 64
    # However few rows are computed at a time, or at all, nothing changes in any step.
    for (hidden, head), options, whole in calls:
        for chunk, rows in ((4096, slice(None)), (7, slice(None)), (1, slice(3, None, 97))):
            part = {
                name: value[rows] if isinstance(value, torch.Tensor) else value
                for name, value in options.items()
            }
            found = sample_tokens(hidden[rows], head, **part, chunk_rows=chunk)
            for ours, same in zip(found, whole, strict=True):
                assert ours is same is None or torch.equal(ours, same[rows])


def test_tokens_one_row_at_a_time(denoiser, prompt, monkeypatch):
    one = functools.partial(sample_tokens, chunk_rows=1)
    monkeypatch.setattr("smalti.sampling.predictor.sample_tokens", one)
    _, steps = run_case(denoiser, prompt, "1step")
    assert torch.equal(steps[-1].tokens.flatten(1), EXPECTED["tokens_1step"].long())


@pytest.mark.slow
@pytest.mark.parametrize("case", ["argmax_stratified_8_edit", "argmax_confident_8_cfg3_edit"])
def test_tokens_in_a_batch_of_three(denoiser, case):
    texts = [COMMON["prompt"], "a blue square left of a red circle", COMMON["prompt"]]
    settings, steps = run_case(denoiser, prompts(denoiser, texts), case)
    tokens = steps[-1].tokens.flatten(1)
    assert torch.equal(tokens[::2], EXPECTED[f"tokens_{case}"].long().expand(2, -1))
    assert not torch.equal(tokens[0], tokens[1])
    edited = sum(step.edited.flatten(1).sum(dim=1) for step in steps)
    assert edited[0] == edited[2] == settings["total_edited"]


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.startswith("unmask_budget")])
def test_unmask_budgets(name):
    tokens, steps, shift = name.removeprefix("unmask_budget_").split("_")
    counts = ShiftBudget(float(shift.removeprefix("shift"))).counts(int(tokens), int(steps))
    assert counts == EXPECTED[name].tolist()


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_stratified_orders(side):
    assert list(stratified_order(side)) == EXPECTED[f"stratified_order_{side}_seed42"].tolist()


@pytest.mark.parametrize("name", SCHEDULES)
def test_temperature_schedules(name):
    assert SCHEDULES[name].values(20) == pytest.approx(
        EXPECTED[f"temps_{name}_20"].tolist(), rel=0, abs=1e-15
    )
