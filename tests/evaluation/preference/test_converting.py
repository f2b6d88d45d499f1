"""Names of published weights become those of transformers."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

TOOL = runpy.run_path(str(Path(__file__).parents[3] / "tools" / "convert_scorer.py"))


def test_attention_is_split_and_projections_are_turned() -> None:
    joined = torch.arange(12.0).reshape(6, 2)
    state = {
        "visual.transformer.resblocks.3.attn.in_proj_weight": joined,
        "transformer.resblocks.0.attn.out_proj.bias": torch.ones(2),
        "transformer.resblocks.0.mlp.c_fc.weight": torch.ones(8, 2),
        "visual.proj": torch.zeros(4, 3),
        "text_projection": torch.zeros(5, 3),
        "visual.ln_pre.weight": torch.ones(2).half(),
        "positional_embedding": torch.ones(77, 2),
        "attn_mask": torch.zeros(1),
        "logit_scale": torch.tensor(4.6),
    }
    found = TOOL["clip_names"](state)
    attention = "vision_model.encoder.layers.3.self_attn"
    assert {name: tuple(one.shape) for name, one in found.items()} == {
        f"{attention}.q_proj.weight": (2, 2),
        f"{attention}.k_proj.weight": (2, 2),
        f"{attention}.v_proj.weight": (2, 2),
        "text_model.encoder.layers.0.self_attn.out_proj.bias": (2,),
        "text_model.encoder.layers.0.mlp.fc1.weight": (8, 2),
        "visual_projection.weight": (3, 4),
        "text_projection.weight": (3, 5),
        "vision_model.pre_layrnorm.weight": (2,),
        "text_model.embeddings.position_embedding.weight": (77, 2),
        "logit_scale": (),
    }
    assert torch.equal(found[f"{attention}.k_proj.weight"], joined[2:4])
    assert all(one.dtype == torch.float32 for one in found.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blip.visual_encoder.blocks.7.attn.qkv.bias", "vision_model.encoder.layers.7.self_attn.qkv.bias"),
        (
            "blip.visual_encoder.blocks.7.attn.proj.bias",
            "vision_model.encoder.layers.7.self_attn.projection.bias",
        ),
        ("blip.visual_encoder.blocks.7.norm2.bias", "vision_model.encoder.layers.7.layer_norm2.bias"),
        ("blip.visual_encoder.norm.bias", "vision_model.post_layernorm.bias"),
        ("blip.text_encoder.encoder.layer.0.attention.self.query.bias",) * 2,
        ("mlp.layers.7.weight", "mlp.layers.7.weight"),
        ("blip.text_encoder.embeddings.position_ids", ""),
        ("blip.itm_head.weight", ""),
    ],
)
def test_imagerewards_names(name: str, expected: str) -> None:
    expected = expected.removeprefix("blip.")
    assert list(TOOL["blip_names"]({name: torch.ones(1)})) == ([expected] if expected else [])


def test_inceptions_classes_are_left_out() -> None:
    names = ("Mixed_5b.branch1x1.bn.weight", "Mixed_5b.branch1x1.bn.num_batches_tracked", "fc.weight")
    assert list(TOOL["inception_names"]({name: torch.ones(1) for name in names})) == [names[0]]
