"""The prompt's keys and values taken from an earlier pass: where that is exact, and that it is never silent."""

from __future__ import annotations

import pytest
import torch
from tiny import generators, tiny_denoiser, tiny_prompts

from smalti.errors import SmaltiError
from smalti.model.config import RopeConfig
from smalti.model.reuse import PromptMemory
from smalti.sampling.guidance import Guidance
from smalti.sampling.reuse import PromptReuse
from smalti.sampling.sampler import Sampler, sample

TEXT = ["a red circle"]
VARIANTS = [
    dict(image_positions=positions, downsample=downsample)
    for positions in ("raster", "axial")
    for downsample in (True, False)
]


def grids(denoiser, count=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, denoiser.config.codebook_size, (count, 1, 4, 4), generator=generator)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_same_grid_gives_the_same(variant):
    denoiser = tiny_denoiser(**variant)
    prompt, memory = tiny_prompts(denoiser, TEXT), PromptMemory()
    grid = grids(denoiser)[0]
    plain, first = denoiser(grid, prompt), denoiser(grid, prompt, memory)
    assert torch.equal(first, plain)
    torch.testing.assert_close(denoiser(grid, prompt, memory), plain, rtol=1e-4, atol=1e-4)


def test_another_grid_is_exact_in_one_layer_and_close_to_nothing_else_in_two():
    """A layer's keys of the prompt depend on the picture from the second layer on."""
    errors = []
    for layers in (1, 2):
        denoiser = tiny_denoiser(num_hidden_layers=layers)
        prompt, memory = tiny_prompts(denoiser, TEXT), PromptMemory()
        before, after = grids(denoiser)
        denoiser(before, prompt, memory)
        difference = denoiser(after, prompt, memory) - denoiser(after, prompt)
        errors.append(float(difference.detach().abs().max()))
    assert errors[0] < 1e-4 < errors[1]


def test_queries_beyond_the_original_length_keep_their_scale():
    rope = RopeConfig("yarn", factor=4.0, original_max_position_embeddings=8, llama_4_scaling_beta=0.5)
    denoiser = tiny_denoiser(rope=rope)
    prompt, memory = tiny_prompts(denoiser, TEXT), PromptMemory()
    grid = grids(denoiser)[0]
    plain = denoiser(grid, prompt, memory)
    torch.testing.assert_close(denoiser(grid, prompt, memory), plain, rtol=1e-4, atol=1e-4)


def test_prompts_of_several_lengths_are_refused():
    denoiser = tiny_denoiser()
    prompt = tiny_prompts(denoiser, ["a red circle", "two blue squares and a dog"])
    with pytest.raises(SmaltiError, match="one length"):
        denoiser(grids(denoiser, 2)[:, 0], prompt, PromptMemory())


@pytest.mark.parametrize("guidance", [Guidance(0.0), Guidance(2.0), Guidance(2.0, (0.3, 0.6))], ids=str)
@pytest.mark.parametrize("conditioning", ["sequence", "cross_attention"])
def test_sampling_recomputes_when_asked(guidance, conditioning, monkeypatch):
    denoiser = tiny_denoiser(num_hidden_layers=1, conditioning=conditioning)
    prompt = tiny_prompts(denoiser, ["a red circle", "two blue squares and a dog", "a red square"])
    shapes = []
    monkeypatch.setattr(
        denoiser.layers[0],
        "forward",
        lambda x, *rest, _forward=denoiser.layers[0].forward, **named: (
            shapes.append(x.shape[1]) or _forward(x, *rest, **named)
        ),
    )

    def tokens(**settings):
        shapes.clear()
        sampler = Sampler(steps=6, guidance=guidance, argmax=True, **settings)
        return list(sample(denoiser, prompt, grid=(4, 4), sampler=sampler, generators=generators(1, 2, 3)))[
            -1
        ].tokens

    exact = tokens()
    reused, lengths = tokens(reuse=PromptReuse(3)), list(shapes)
    # One layer: what is remembered does not depend on the picture.
    assert torch.equal(exact, reused)
    passes_over_the_picture_alone = lengths.count(4)  # 4 × 4 tokens, compressed
    if conditioning == "sequence":
        assert 0 < passes_over_the_picture_alone < len(lengths)
    else:
        assert passes_over_the_picture_alone == len(lengths)


def test_a_wrong_interval_is_named():
    with pytest.raises(SmaltiError, match="every"):
        PromptReuse(0)
