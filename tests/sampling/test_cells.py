"""Passes over some cells: where they are exact, what they compute, and what they go with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adapters import write_adapter
from tiny import TEXTS, generators, tiny_denoiser, tiny_prompts

from smalti.common.rules import parse_rule
from smalti.errors import SmaltiError
from smalti.model.cells import CellMemory
from smalti.runtime.streaming import StreamedLayers
from smalti.sampling.budgets import AdaptiveBudget
from smalti.sampling.guidance import Guidance
from smalti.sampling.guidance_passes import SkippedPasses
from smalti.sampling.orders import ConfidenceOrder, HaltonOrder, HistoryOrder
from smalti.sampling.refinement import RareRefinement
from smalti.sampling.reuse import REUSES, CellReuse, CellView, NoReuse
from smalti.sampling.revision import RunningConfidenceRevision, ThresholdRevision, TokenToMaskRevision
from smalti.sampling.sampler import Sampler, sample
from smalti.sampling.view import Control
from smalti.storage.adapters import load_adapters, read_adapter
from smalti.storage.folder import load_denoiser, save_denoiser

VARIANTS = [
    dict(image_positions=positions, downsample=downsample, conditioning=conditioning)
    for positions in ("raster", "axial")
    for downsample in (True, False)
    for conditioning in ("sequence", "cross_attention")
]
SAMPLERS = {
    "plain": Sampler(steps=6),
    "halton": Sampler(steps=6, order=HaltonOrder(), revision=ThresholdRevision(0.01)),
    "noisy": Sampler(
        steps=6, order=ConfidenceOrder(1.0), guidance=Guidance(2.0), revision=TokenToMaskRevision(0.9)
    ),
    "history": Sampler(steps=6, order=HistoryOrder(3), guidance=Guidance(2.0, (0.3, 0.6))),
    "running": Sampler(steps=6, revision=RunningConfidenceRevision(), final="release"),
    "adaptive": Sampler(steps=6, budget=AdaptiveBudget(0.02), revision=ThresholdRevision(0.01)),
    "refined": Sampler(
        steps=6, order=HaltonOrder(), refinement=RareRefinement(0.3, 1.0), guidance=Guidance(1.0)
    ),
}


def random_grids(denoiser, count, size=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, denoiser.config.codebook_size, (count, size, size), generator=generator)


def run(denoiser, sampler, texts=TEXTS[:2], grid=(4, 4), seeds=None, **options):
    prompt = tiny_prompts(denoiser, list(texts), grid)
    seeds = range(len(texts)) if seeds is None else seeds
    return list(
        sample(denoiser, prompt, grid=grid, sampler=sampler, generators=generators(*seeds), **options)
    )


def rows_of(denoiser, sampler, **options):
    """Return how many rows the first layer computes, summed over passes."""
    rows = []
    hook = denoiser.layers[0].register_forward_pre_hook(
        lambda module, inputs: rows.append(inputs[0].shape[0] * inputs[0].shape[1])
    )
    run(denoiser, sampler, **options)
    hook.remove()
    return sum(rows)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
class TestPass:
    @torch.no_grad()
    def test_all_cells_of_another_grid_are_exact_in_one_layer(self, variant):
        """With the encoded prompt beside the image, they are exact in any number of layers."""
        layers = 3 if variant["conditioning"] == "cross_attention" else 1
        denoiser = tiny_denoiser(num_hidden_layers=layers, **variant)
        prompt, memory = tiny_prompts(denoiser, [TEXTS[0]] * 2), CellMemory()
        before, after = random_grids(denoiser, 4).chunk(2)
        assert torch.equal(denoiser(before, prompt, memory), denoiser(before, prompt))
        cells = torch.arange(16 // denoiser.config.cell**2).repeat(2, 1)
        memory.choose(torch.arange(2), cells)
        torch.testing.assert_close(
            denoiser(after, prompt, memory), denoiser(after, prompt), rtol=1e-4, atol=1e-4
        )

    @torch.no_grad()
    def test_chosen_cells_of_chosen_images_alone_are_computed(self, variant):
        """In one layer an unchanged cell's keys are exact, so a chosen cell's output is; the others keep theirs."""
        denoiser = tiny_denoiser(num_hidden_layers=1, **variant)
        cell = denoiser.config.cell
        prompt, memory = tiny_prompts(denoiser, [TEXTS[0]] * 3, (8, 8)), CellMemory()
        before, other = random_grids(denoiser, 6, 8).chunk(2)
        kept = denoiser(before, prompt, memory).clone()
        per_side = 8 // cell
        chosen = torch.zeros(3, per_side, per_side, dtype=torch.bool)
        chosen[0, 1, 0] = chosen[0, 2, 3] = chosen[2, 0, 1] = chosen[2, 3, 3] = True
        tokens = chosen.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
        after = torch.where(tokens, other, before)
        rows = torch.tensor([0, 2])
        memory.choose(rows, chosen.flatten(1)[rows].nonzero()[:, 1].view(2, 2))
        found = denoiser(after[rows], prompt.select(rows), memory)
        exact, here = denoiser(after, prompt), tokens.flatten(1)
        torch.testing.assert_close(memory.output[here], exact[here], rtol=1e-4, atol=1e-4)
        assert torch.equal(memory.output[~here], kept[~here])
        assert torch.equal(found, memory.output[rows])


def test_prompts_of_several_lengths_are_refused():
    for conditioning in ("sequence", "cross_attention"):
        denoiser = tiny_denoiser(conditioning=conditioning)
        prompt = tiny_prompts(denoiser, TEXTS[:2])
        with pytest.raises(SmaltiError, match="one length"):
            denoiser(random_grids(denoiser, 2), prompt, CellMemory())


class TestRule:
    def view(self, **changes):
        zeros = torch.zeros(1, 64, dtype=torch.bool)
        view = CellView((8, 8), zeros, zeros, torch.zeros(1, 64), torch.ones(1, 64, dtype=torch.int64))
        return replace(view, **changes)

    def test_it_refreshes_in_the_warm_up_and_at_every_kth_step(self):
        rule = CellReuse(every=3, warmup=0.2)
        assert [index for index in range(10) if rule.refreshes(index, 10)] == [0, 1, 2, 5, 8]

    def test_neighbours_of_what_changed_and_what_is_expected_are_computed(self):
        changed, expected = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
        changed[0, 0, 0] = expected[0, 5, 5] = True
        view = self.view(changed=changed.flatten(1), expected=expected.flatten(1))
        computed = CellReuse(near=1, share=0).computed(view).view(8, 8)
        wanted = torch.zeros(8, 8, dtype=torch.bool)
        wanted[:2, :2] = wanted[5, 5] = True
        assert bool(computed[wanted].all())
        assert int(computed.sum()) == 8  # 5 cells, in sixteenths of the grid

    def test_the_share_goes_to_the_most_doubtful_then_to_the_oldest(self):
        doubt, age = torch.zeros(1, 64), torch.arange(64)[None]
        doubt[0, 7], doubt[0, 3] = 0.9, 0.2
        computed = CellReuse(share=4 / 64).computed(self.view(doubt=doubt, age=age))
        assert computed[0].nonzero()[:, 0].tolist() == [3, 7, 62, 63]

    def test_it_is_named_by_a_string(self):
        assert parse_rule("reuse", "cells:every=4,near=0", REUSES) == CellReuse(every=4, near=0)

    @pytest.mark.parametrize("text", ["cells:every=0", "cells:warmup=2", "cells:near=-1", "cells:share=1.5"])
    def test_a_wrong_parameter_is_named(self, text):
        with pytest.raises(SmaltiError, match=text.split(":")[1].split("=")[0]):
            parse_rule("reuse", text, REUSES)


@pytest.mark.parametrize("name", SAMPLERS)
class TestLoop:
    @pytest.mark.parametrize("batched", [True, False])
    def test_computing_everything_is_exact(self, name, batched):
        denoiser = tiny_denoiser()
        sampler = replace(SAMPLERS[name], guidance_batched=batched)
        for rule in (CellReuse(every=1), CellReuse(warmup=1.0)):
            for one, two in zip(
                run(denoiser, sampler), run(denoiser, replace(sampler, reuse=rule)), strict=True
            ):
                for field in ("tokens", "candidate", "probability", "edited", "revealed", "remasked"):
                    assert torch.equal(getattr(one, field), getattr(two, field))

    @pytest.mark.parametrize("conditioning", ["sequence", "cross_attention"])
    def test_all_cells_every_time_are_exact_where_the_prompt_does_not_see_the_image(self, name, conditioning):
        denoiser = tiny_denoiser(num_hidden_layers=1, conditioning=conditioning)
        sampler = replace(SAMPLERS[name], argmax=True)
        exact = run(denoiser, sampler)[-1].tokens
        reused = run(denoiser, replace(sampler, reuse=CellReuse(every=6, warmup=0, share=1.0)))[-1].tokens
        assert torch.equal(reused, exact)

    def test_it_computes_less(self, name):
        denoiser = tiny_denoiser()
        sampler = SAMPLERS[name]
        rule = CellReuse(every=6, warmup=0, near=0, share=0)
        options = dict(texts=TEXTS[:1], grid=(8, 8))
        assert rows_of(denoiser, replace(sampler, reuse=rule), **options) < 0.9 * rows_of(
            denoiser, sampler, **options
        )

    def test_an_image_does_not_depend_on_its_batch(self, name):
        denoiser = tiny_denoiser()
        sampler = replace(SAMPLERS[name], reuse=CellReuse(every=4, warmup=0, near=0))
        together = run(denoiser, sampler, TEXTS, (8, 8))[-1].tokens
        for image, text in enumerate(TEXTS):
            alone = run(denoiser, sampler, [text], (8, 8), seeds=[image])[-1].tokens
            assert torch.equal(alone[0], together[image])

    def test_a_preview_changes_no_token(self, name):
        denoiser = tiny_denoiser()
        sampler = replace(SAMPLERS[name], reuse=CellReuse(every=4, warmup=0, near=0))
        plain, shown = (run(denoiser, sampler, grid=(8, 8), preview=preview)[-1] for preview in (False, True))
        assert torch.equal(plain.tokens, shown.tokens)


def test_an_image_that_is_dropped_does_not_change_the_others():
    denoiser = tiny_denoiser()
    sampler = Sampler(steps=8, reuse=CellReuse(every=3, warmup=0, near=0))
    exact = run(denoiser, sampler, grid=(8, 8))[-1].tokens
    prompt = tiny_prompts(denoiser, TEXTS[:2], (8, 8))
    steps = sample(denoiser, prompt, grid=(8, 8), sampler=sampler, generators=generators(0, 1))
    step = next(steps)
    while step.index < 7:
        step = steps.send(Control(False, torch.tensor([False, True])))
    assert torch.equal(step.tokens[1], exact[1])
    assert bool((step.tokens[0] == denoiser.config.mask_code).any())


def test_a_fixed_order_draws_from_new_predictions_alone():
    """Every revealed token is the candidate of a cell that the step computed."""
    denoiser = tiny_denoiser(num_hidden_layers=1)
    sampler = Sampler(steps=8, order=HaltonOrder(), argmax=True)
    exact = run(denoiser, sampler, grid=(8, 8))
    reused = run(denoiser, replace(sampler, reuse=CellReuse(9, 0.0, 0, 0.0)), grid=(8, 8))
    # In one layer the keys of unchanged cells are exact, and so is whatever is computed.
    assert torch.equal(exact[-1].tokens, reused[-1].tokens)


def test_it_goes_with_skipped_guidance():
    denoiser = tiny_denoiser()
    sampler = Sampler(
        steps=8, guidance=Guidance(2.0), guidance_passes=SkippedPasses(2), reuse=CellReuse(4, 0.0, near=0)
    )
    both = rows_of(denoiser, replace(sampler, reuse=NoReuse()), texts=TEXTS[:1], grid=(8, 8))
    assert rows_of(denoiser, sampler, texts=TEXTS[:1], grid=(8, 8)) < both
    exact = replace(sampler, guidance_passes=SkippedPasses(1), reuse=CellReuse(1))
    plain = Sampler(steps=8, guidance=Guidance(2.0), guidance_batched=False)
    assert torch.equal(run(denoiser, exact)[-1].tokens, run(denoiser, plain)[-1].tokens)


@pytest.mark.parametrize("kind", ["streamed", "int8", "int4", "adapter"])
def test_loading_modes(kind, tmp_path):
    """Reuse gives the same tokens whether layers stay or are streamed; it is exact at k = 1 in every mode."""
    base = tmp_path / "base"
    save_denoiser(tiny_denoiser(num_hidden_layers=3), base)
    if kind.startswith("int"):
        pytest.importorskip("torchao")
    denoiser = load_denoiser(base, quantize=kind if kind.startswith("int") else None)
    sampler = Sampler(steps=6, order=HaltonOrder(), guidance=Guidance(1.0), argmax=True)
    rule = CellReuse(every=4, warmup=0, near=0)
    if kind == "adapter":
        write_adapter(tmp_path / "adapter", base)
        load_adapters(denoiser, base, [read_adapter(tmp_path / "adapter")], [1.0])
    reused = run(denoiser, replace(sampler, reuse=rule), grid=(8, 8))[-1].tokens
    if kind == "streamed":
        denoiser.layers = StreamedLayers(denoiser.layers, "cpu")
        assert torch.equal(run(denoiser, replace(sampler, reuse=rule), grid=(8, 8))[-1].tokens, reused)
    exact = run(denoiser, sampler, grid=(8, 8))[-1].tokens
    assert torch.equal(run(denoiser, replace(sampler, reuse=CellReuse(1)), grid=(8, 8))[-1].tokens, exact)
    assert bool((reused < denoiser.config.codebook_size).all())
