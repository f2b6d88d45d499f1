"""The denoiser's shapes, positions, conditioning and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config, tiny_denoiser, tiny_prompts
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.model.config import MODEL_TYPE, DenoiserConfig, RopeConfig
from smalti.model.prompt import PromptBatch, PromptTemplate
from smalti.model.rotary import axial_positions, axial_tables, inverse_frequencies, raster_tables, rotate

TEXTS = ["a red circle", "a blue square left of a yellow star", "two dogs"]
VARIANTS = [
    dict(conditioning=conditioning, image_positions=positions, downsample=downsample)
    for conditioning in ("sequence", "cross_attention")
    for positions in ("raster", "axial")
    for downsample in (True, False)
] + [
    dict(conditioning=conditioning, image_positions="axial", prompt_convolution=3)
    for conditioning in ("sequence", "cross_attention")
]


def name(variant):
    return "-".join(str(value) for value in variant.values())


def grid_of(denoiser, B, h=4, w=6, seed=0):
    tokens = torch.randint(
        0, denoiser.config.codebook_size, (B, h, w), generator=torch.Generator().manual_seed(seed)
    )
    tokens[:, 0] = denoiser.config.mask_code
    return tokens


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
class TestVariants:
    def test_a_padded_prompt_gives_what_an_unpadded_one_gives(self, variant):
        denoiser = tiny_denoiser(**variant)
        tokens = grid_of(denoiser, 3)
        with torch.inference_mode():
            together = denoiser(tokens, tiny_prompts(denoiser, TEXTS, (4, 6)))
            for index, text in enumerate(TEXTS):
                alone = denoiser(tokens[index : index + 1], tiny_prompts(denoiser, [text], (4, 6)))
                torch.testing.assert_close(together[index], alone[0], atol=1e-4, rtol=1e-4)
        assert together.shape == (3, 24, 32)

    def test_padding_ids_are_never_seen(self, variant):
        denoiser = tiny_denoiser(**variant)
        tokens = grid_of(denoiser, 3)
        prompt = tiny_prompts(denoiser, TEXTS, (4, 6))
        index = torch.arange(prompt.ids.shape[1])
        other = prompt._replace(ids=torch.where(index < prompt.lengths[:, None], prompt.ids, 300))
        assert not torch.equal(other.ids, prompt.ids)
        with torch.inference_mode():
            assert torch.equal(denoiser(tokens, prompt), denoiser(tokens, other))

    def test_prompt_and_every_token_matter(self, variant):
        denoiser = tiny_denoiser(**variant)
        tokens = grid_of(denoiser, 1)
        with torch.inference_mode():
            base = denoiser(tokens, tiny_prompts(denoiser, TEXTS[:1], (4, 6)))
            other = denoiser(tokens, tiny_prompts(denoiser, ["a red square"], (4, 6)))
            assert (base - other).abs().mean() > 1e-3
            changed = tokens.clone()
            changed[0, 3, 5] = (changed[0, 3, 5] + 1) % 64
            moved = (denoiser(changed, tiny_prompts(denoiser, TEXTS[:1], (4, 6))) - base).abs().mean(dim=2)[0]
        assert bool((moved > 0).all()), "attention is bidirectional: every position sees the change"

    def test_gradients_reach_every_weight_under_autocast(self, variant):
        denoiser = tiny_denoiser(**variant)
        prompt = tiny_prompts(denoiser, TEXTS, (4, 6))
        with torch.inference_mode():  # tables cached here must not spoil training
            denoiser(grid_of(denoiser, 3), prompt)
        denoiser(grid_of(denoiser, 3), prompt)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = denoiser(grid_of(denoiser, 3), prompt)
            (hidden @ denoiser.head.T).float().square().mean().backward()
        without = [name for name, weight in denoiser.named_parameters() if weight.grad is None]
        assert not without
        assert all(bool(weight.grad.isfinite().all()) for weight in denoiser.parameters())

    def test_bfloat16_is_close(self, variant):
        denoiser = tiny_denoiser(scale=3.0, **variant)
        prompt = tiny_prompts(denoiser, TEXTS, (4, 6))
        with torch.inference_mode():
            exact = denoiser(grid_of(denoiser, 3), prompt)
            short = denoiser.bfloat16()(grid_of(denoiser, 3), prompt)
        assert short.dtype == torch.bfloat16
        assert (short.float() - exact).norm() < 0.05 * exact.norm()

    def test_config_survives_a_round_trip(self, variant):
        config = tiny_config(**variant, sampling={"guidance_scale": 3.0})
        assert DenoiserConfig.from_dict(config.to_dict()) == config


def test_slots_can_begin_anywhere():
    """The same prompt in a batch with one start and in one with two goes through different code."""
    denoiser = tiny_denoiser(image_positions="axial")
    same, mixed = tiny_prompts(denoiser, TEXTS[:1] * 2, (4, 6)), tiny_prompts(denoiser, TEXTS[:2], (4, 6))
    assert same.common_start is not None and mixed.common_start is None
    with torch.inference_mode():
        tokens = grid_of(denoiser, 2)
        torch.testing.assert_close(
            denoiser(tokens, same)[0], denoiser(tokens, mixed)[0], atol=1e-4, rtol=1e-4
        )


def test_a_prompt_token_sees_itself_and_those_just_before():
    layer = tiny_denoiser(prompt_convolution=3).prompt_convolution
    x = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        padded = F.pad(x.transpose(1, 2), (2, 0))
        torch.testing.assert_close(layer(x), x + F.conv1d(padded, layer.conv.weight).transpose(1, 2))
        changed = x.clone()
        changed[:, 2] += 1
        moved = (layer(changed) != layer(x)).any(dim=2).any(dim=0)
    assert moved.tolist() == [False, False, True, True, True, False]


def test_downsampling_is_the_convolution():
    denoiser = tiny_denoiser()
    down, up = denoiser.downsample_gen.downsample, denoiser.upsample_gen.upsample
    x = torch.randn(2, 4, 6, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = F.conv2d(down.norm(x).permute(0, 3, 1, 2), down.conv.weight, stride=2)
        torch.testing.assert_close(down(x), expected.flatten(2).transpose(1, 2))
        expected = F.conv_transpose2d(up.norm(x).permute(0, 3, 1, 2), up.conv.weight, stride=2)
        torch.testing.assert_close(up(x.flatten(1, 2), 4, 6), expected.flatten(2).transpose(1, 2))


def test_axial_positions_follow_the_map():
    positions = axial_positions(10, torch.tensor([2, 1]), 2, 3)
    assert positions[0].tolist() == [
        [0, 0], [1, 1], [2, 2], [2, 3], [2, 4], [3, 2], [3, 3], [3, 4], [5, 5], [6, 6],
    ]  # fmt: skip
    assert positions[1, 1].tolist() == [1, 1] and positions[1, 7].tolist() == [4, 4]


def test_rotation_depends_on_distance_only():
    """⟨rotate(q, i), rotate(k, j)⟩ is a function of j − i, on a line and on a map."""
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    line = raster_tables(RopeConfig(), 8, 12, torch.device("cpu"), torch.float32)
    turned = [rotate(x.expand(1, 1, 12, 8), line)[0, 0] for x in (q, k)]
    torch.testing.assert_close(turned[0][2] @ turned[1][5], turned[0][7] @ turned[1][10])
    cells = torch.tensor([[[3, 1], [4, 6], [5, 2], [6, 7]]])
    plane = axial_tables(RopeConfig(), 8, cells, torch.float32, (8, 8))
    turned = [rotate(x.expand(1, 1, 4, 8), plane)[0, 0] for x in (q, k)]
    torch.testing.assert_close(turned[0][0] @ turned[1][1], turned[0][2] @ turned[1][3])
    assert not torch.allclose(turned[0][0] @ turned[1][1], turned[0][0] @ turned[1][2])


def test_a_longer_side_turns_slower_and_a_trained_one_as_before():
    rope = RopeConfig(rope_theta=100.0, map_side=4, map_power=2.0)
    cells = axial_positions(40, torch.tensor([2]), 4, 8)
    plain = axial_tables(RopeConfig(rope_theta=100.0), 16, cells, torch.float32, (4, 8))
    wide = axial_tables(rope, 16, cells, torch.float32, (4, 8))
    base = axial_tables(RopeConfig(rope_theta=400.0), 16, cells, torch.float32, (4, 8))
    rows, columns = [0, 1, 2, 3], [4, 5, 6, 7]
    assert torch.equal(wide.cos[..., rows], plain.cos[..., rows])
    assert torch.equal(wide.cos[..., columns], base.cos[..., columns])
    assert not torch.equal(wide.cos[..., columns], plain.cos[..., columns])
    small = axial_positions(20, torch.tensor([2]), 4, 4)
    for one, other in zip(
        axial_tables(rope, 16, small, torch.float32, (4, 4)),
        axial_tables(RopeConfig(rope_theta=100.0), 16, small, torch.float32, (4, 4)),
        strict=True,
    ):
        assert one is other or torch.equal(one, other)


def test_a_trained_size_passes_bit_for_bit_and_a_larger_one_differs():
    plain = tiny_denoiser(image_positions="axial")
    scaled = tiny_denoiser(image_positions="axial", rope=RopeConfig(map_side=2))
    for grid, same in ((4, 4), True), ((4, 8), False):
        tokens = torch.randint(0, 64, (1, *grid), generator=torch.Generator().manual_seed(0))
        prompt = tiny_prompts(plain, TEXTS[:1], grid)
        with torch.no_grad():
            assert torch.equal(plain(tokens, prompt), scaled(tokens, prompt)) == same


@pytest.mark.parametrize("values", [{"map_side": -1}, {"map_power": -1.0}])
def test_wrong_scaling_of_maps_is_named(values):
    with pytest.raises(SmaltiError, match=next(iter(values))):
        RopeConfig(**values)


def test_yarn_keeps_fast_frequencies_and_slows_the_others():
    rope = RopeConfig("yarn", 1e6, factor=16, original_max_position_embeddings=16384)
    plain, _ = inverse_frequencies(RopeConfig(rope_theta=1e6), 128)
    yarn, factor = inverse_frequencies(rope, 128)
    assert factor == 1.0
    turns = 16384 * plain / (2 * math.pi)
    torch.testing.assert_close(yarn[turns > 40], plain[turns > 40])
    torch.testing.assert_close(yarn[turns < 0.8], plain[turns < 0.8] / 16)
    assert bool(((yarn <= plain * (1 + 1e-6)) & (yarn >= plain / 16 * (1 - 1e-6))).all())
    lopsided = RopeConfig("yarn", 1e6, factor=16, mscale=1.0, mscale_all_dim=0.0)
    assert inverse_frequencies(lopsided, 128)[1] == pytest.approx(0.1 * math.log(16) + 1)


def test_queries_are_scaled_beyond_the_original_length():
    rope = RopeConfig("yarn", factor=4, original_max_position_embeddings=8, llama_4_scaling_beta=0.1)
    scale = raster_tables(rope, 8, 20, torch.device("cpu"), torch.float32).query_scale[:, 0]
    assert scale[:8].tolist() == [1.0] * 8
    assert float(scale[17]) == pytest.approx(1 + 0.1 * math.log(3))
    assert raster_tables(rope, 8, 8, torch.device("cpu"), torch.float32).query_scale is None


def test_initialisation_is_reproducible_and_scaled():
    first, second = (tiny_denoiser(seed=3, scale=1.0) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert float(first.gen_embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(first.layers[0].mlp.down_proj.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert bool((first.norm.weight == 1).all())


@settings(max_examples=20, deadline=None)
@given(h=st.integers(1, 5), w=st.integers(1, 5), cross=st.booleans(), axial=st.booleans())
def test_any_even_grid_works(h, w, cross, axial):
    denoiser = tiny_denoiser(
        conditioning="cross_attention" if cross else "sequence",
        image_positions="axial" if axial else "raster",
    )
    tokens = grid_of(denoiser, 1, 2 * h, 2 * w)
    with torch.inference_mode():
        hidden = denoiser(tokens, tiny_prompts(denoiser, TEXTS[:1], (2 * h, 2 * w)))
    assert hidden.shape == (1, 4 * h * w, 32) and bool(hidden.isfinite().all())


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (0, 4)])
def test_an_odd_grid_is_named(grid):
    with pytest.raises(SmaltiError, match=f"multiples of 2 tokens, not {grid[0]}×{grid[1]}"):
        tiny_config().slots(*grid)


def test_prompt_and_grid_must_fit():
    denoiser = tiny_denoiser()
    with pytest.raises(SmaltiError, match="must reserve 6 slots for a grid of 4×6, not 4"):
        denoiser(grid_of(denoiser, 1), tiny_prompts(denoiser, TEXTS[:1], (4, 4)))
    with pytest.raises(SmaltiError, match="must hold 2 prompts, one a grid, or a multiple, not 1"):
        denoiser(grid_of(denoiser, 2), tiny_prompts(denoiser, TEXTS[:1], (4, 6)))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_grids_may_be_used_for_several_batches_of_prompts(variant):
    denoiser = tiny_denoiser(**variant)
    tokens, prompt = grid_of(denoiser, 2), tiny_prompts(denoiser, TEXTS[:2], (4, 6))
    both = PromptBatch.cat(prompt, prompt.unconditional())
    with torch.inference_mode():
        expected = denoiser(torch.cat([tokens, tokens]), both)
        torch.testing.assert_close(denoiser(tokens, both), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type must be .* not 'llama'"),
        ({"hidden_size": 0}, "hidden_size must be a whole number from 1 to 131072, not 0"),
        ({"hidden_size": "64"}, "hidden_size must be a whole number"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads must divide num_attention_heads 4, not 3"),
        ({"head_dim": 7}, "head_dim must be a multiple of 2"),
        ({"head_dim": 6, "image_positions": "axial"}, "head_dim must be a multiple of 4 for axial"),
        ({"image_positions": "spiral"}, "image_positions must be 'raster' or 'axial', not 'spiral'"),
        ({"conditioning": None}, "conditioning must be"),
        ({"num_text_layers": 2}, "num_text_layers must be 0"),
        ({"prompt_convolution": -1}, "prompt_convolution must be a whole number from 0 to 1024, not -1"),
        ({"downsample": 1}, "downsample must be true or false"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu', not 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"dlm_paradigm": "causal"}, "dlm_paradigm must be 'bidirectional'"),
        ({"d_model_gen": 33}, "d_model_gen must equal hidden_size"),
        ({"mask_token_id": 456}, "mask_token_id must be a whole number from 0 to 455, not 456"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a finite number"),
        ({"flip_ratio": 1.5}, "flip_ratio must be a finite number of at least 0.* and at most 1"),
        ({"rope_parameters": None}, "rope_parameters must be an object"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_type must be 'default' or 'yarn'"),
        ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta must be a finite number"),
        ({"prompt": {"template": "no fields"}}, "prompt.template must hold"),
        ({"prompt": {"template": "{slots}{prompt}"}}, "before"),
        ({"prompt": {"text": "{prompt}{slots}"}}, "not text"),
        ({"prompt": {}}, "template is missing"),
        ({"prompt": {"template": "{prompt}{slots}", "slot_id": -1}}, "prompt.slot_id"),
        ({"group_ce_weight": 0.2}, "group_ce_weight"),
        ({"group_ce_weight": "{16384:-1}"}, "group_ce_weight"),
        ({"group_ce_weight": "__import__('os')"}, "group_ce_weight"),
        ({"mm_vqvae": ""}, "mm_vqvae"),
        ({"sampling": []}, "sampling must be an object"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens"),
        ({"hidden_size": float("nan")}, "hidden_size must be a whole number"),
        ({"hidden_size": 2**31}, "hidden_size must be a whole number from 1 to 131072"),
        ({"num_hidden_layers": 2**31}, "num_hidden_layers must be a whole number"),
        ({"vocab_size": 10**30}, "vocab_size must be a whole number"),
        ({"head_dim": 10**5000}, "head_dim must be a whole number"),
        ({"d_model_gen": float("nan")}, "d_model_gen must equal hidden_size"),
        ({"rope_parameters": {"rope_theta": 1}}, "rope_theta must be a finite number above 1"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "rope_theta must be a finite number"),
        ({"rope_parameters": {"factor": 1e308}}, "factor must be a finite number"),
        ({"rope_parameters": {"rope_type": "yarn", "beta_slow": 0}}, "beta_slow must be a finite number"),
        ({"rope_parameters": {"mscale": float("inf")}}, "mscale must be a finite number"),
        ({"rope_parameters": {"original_max_position_embeddings": 10**20}}, "original_max_position"),
        ({"group_ce_weight": "{16384:1" + "0" * 400 + "}"}, "group_ce_weight"),
        ({"hidden_act": ["x" * 5000]}, r"hidden_act must be 'silu', not .{1,80}$"),
    ],
)
def test_a_wrong_config_names_itself(change, message):
    with pytest.raises(SmaltiError, match=message) as caught:
        DenoiserConfig.from_dict({**tiny_config().to_dict(), **change})
    assert "\n" not in str(caught.value)


def test_a_config_with_gaps_names_them():
    values = tiny_config().to_dict()
    del values["hidden_size"], values["rope_parameters"]
    with pytest.raises(SmaltiError, match="config.json lacks hidden_size, rope_parameters"):
        DenoiserConfig.from_dict(values)


def test_release_keys_that_do_not_matter_are_ignored():
    values = {
        **tiny_config().to_dict(),
        "model_type": MODEL_TYPE,
        "mlp_bias": False,
        "mm_projector_type": "x",
    }
    assert DenoiserConfig.from_dict(values) == tiny_config()


def test_the_template_takes_its_ids_from_the_config():
    config = tiny_config(mask_token_id=7, max_prompt_tokens=9)
    assert config.prompt == PromptTemplate(
        "{prompt}<|im_end|>{slots}", unconditional_id=7, max_prompt_tokens=9
    )
    assert config.mask_code == 65
