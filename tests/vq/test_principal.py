"""The start of a linear encoder: nearest codes, good squares at once, bad input."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.vq.banded import decode_in_bands
from smalti.vq.config import VQConfig
from smalti.vq.fidelity import measure_fidelity
from smalti.vq.principal import principal_start
from smalti.vq.tokenizer import ImageTokenizer, to_float
from smalti.worlds.scenes.world import Scenes

TINY = {
    "ch": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "z_channels": 12,
    "embed_dim": 8,
    "codebook_size": 256,
    "patch_size": 2,
    "norm": "position",
    "encoder": "linear",
}


def scenes(split: str, count: int) -> torch.Tensor:
    world = Scenes(seed=3, size=64, split=split)
    return torch.stack([world[index]["image"] for index in range(count)])


@pytest.fixture(scope="module")
def tokenizer() -> ImageTokenizer:
    tokenizer = ImageTokenizer(VQConfig.from_dict(TINY))
    tokenizer.init_weights()
    principal_start(tokenizer, scenes("train", 24), seed=0)
    return tokenizer.eval()


def test_unseen_images_come_back_at_once(tokenizer: ImageTokenizer) -> None:
    fidelity = measure_fidelity(tokenizer, scenes("test", 16))
    assert fidelity["psnr"] > 25


def test_the_same_seed_gives_the_same_tokenizer(tokenizer: ImageTokenizer) -> None:
    again = ImageTokenizer(VQConfig.from_dict(TINY))
    again.init_weights()
    principal_start(again, scenes("train", 24), seed=0)
    assert torch.equal(again.quantize.embedding.weight, tokenizer.quantize.embedding.weight)


def test_the_token_is_the_nearest_code(tokenizer: ImageTokenizer) -> None:
    pixels = scenes("test", 2)
    features = tokenizer.features(to_float(pixels)).permute(0, 2, 3, 1).flatten(0, 2)
    distances = torch.cdist(features.double(), tokenizer.quantize.embedding.weight.double())
    chosen = distances.gather(1, tokenizer.from_pixels(pixels).flatten()[:, None])
    torch.testing.assert_close(chosen[:, 0], distances.min(dim=1).values, rtol=0, atol=1e-5)


def test_weights_survive_bfloat16(tokenizer: ImageTokenizer) -> None:
    state = tokenizer.state_dict()
    found = [name for name in state if name.startswith(("encoder", "quant", "decoder.linear", "post"))]
    assert len(found) == 9
    assert all(torch.equal(state[name], state[name].bfloat16().float()) for name in found)


@torch.no_grad()
def test_bands_draw_the_same(tokenizer: ImageTokenizer) -> None:
    tokens = tokenizer.from_pixels(scenes("test", 1))
    z = tokenizer.post_quant_conv(tokenizer.quantize.lookup(tokens))
    whole = tokenizer.decode(tokens)
    torch.testing.assert_close(decode_in_bands(tokenizer.decoder, z, band_bytes=1), whole, rtol=0, atol=1e-5)
    # At the start the convolutions add nothing.
    assert not tokenizer.decoder.conv_out.weight.any()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(tokenizer.decoder.conv_out.weight, std=0.01)
    changed = tokenizer.decode(tokens)
    assert (changed - whole).abs().max() > 1e-3
    torch.testing.assert_close(decode_in_bands(tokenizer.decoder, z), changed, rtol=0, atol=1e-5)
    torch.nn.init.zeros_(tokenizer.decoder.conv_out.weight)


@pytest.mark.parametrize(
    ("changes", "images", "message"),
    [
        (
            {"encoder": "patch"},
            4,
            "encoder must be 'linear' for a start by principal components, not 'patch'",
        ),
        ({"z_channels": 4}, 4, r"z_channels must be at least embed_dim \(8\), not 4"),
        (
            {"z_channels": 64, "embed_dim": 64},
            4,
            "embed_dim must be at most 48, the numbers of a square, not 64",
        ),
        (
            {"codebook_size": 300},
            1,
            r"codebook_size must be at most the number of different squares that it starts from \(\d+\), not 300",
        ),
    ],
)
def test_what_does_not_fit(changes: dict[str, object], images: int, message: str) -> None:
    tokenizer = ImageTokenizer(VQConfig.from_dict({**TINY, **changes}))
    with pytest.raises(SmaltiError, match=message):
        principal_start(tokenizer, scenes("train", images), seed=0)
