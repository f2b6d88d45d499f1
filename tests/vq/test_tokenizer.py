"""The image tokenizer: parity with the release's format, shapes by config, quantization, bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from smalti.errors import SmaltiError
from smalti.storage.folder import load_image_tokenizer
from smalti.storage.loading import BUNDLED_MODELS
from smalti.vq.config import VQConfig
from smalti.vq.discriminator import PatchDiscriminator
from smalti.vq.kmeans import kmeans, nearest
from smalti.vq.patches import PatchMemory
from smalti.vq.tokenizer import ImageTokenizer, to_float, to_uint8
from smalti.worlds.scenes.world import Scenes

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
TINY = {
    "ch": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "z_channels": 8,
    "embed_dim": 4,
    "codebook_size": 32,
    "patch_size": 2,
    "norm": "position",
}


@pytest.fixture(scope="module")
def golden() -> tuple[ImageTokenizer, dict[str, torch.Tensor]]:
    return load_image_tokenizer(GOLDEN / "emu3_vqvae"), load_file(GOLDEN / "expected.safetensors")


@pytest.mark.slow
def test_decodes_as_recorded(golden: tuple[ImageTokenizer, dict[str, torch.Tensor]]) -> None:
    tokenizer, expected = golden
    ids = expected["vq_decode_ids"].long().reshape(1, 16, 16)
    # These random weights decode to values up to ±19, whose last bits move with the number of threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.inference_mode():
        decoded = tokenizer.decode(ids)
    torch.set_num_threads(threads)
    torch.testing.assert_close(decoded, expected["vq_decode_float"], rtol=0, atol=1e-4)
    recorded = expected["vq_decode_uint8"].permute(0, 3, 1, 2)
    # Truncation turns a difference in the last bits into one level at most.
    assert (to_uint8(decoded).int() - recorded.int()).abs().max() <= 1
    assert torch.equal(to_uint8(expected["vq_decode_float"]), recorded)


def test_encodes_as_recorded(golden: tuple[ImageTokenizer, dict[str, torch.Tensor]]) -> None:
    tokenizer, expected = golden
    with torch.inference_mode():
        ids = tokenizer.encode(expected["vq_encode_image"])
    assert torch.equal(ids.flatten().int(), expected["vq_encode_ids"])


@settings(max_examples=12, deadline=None)
@given(
    levels=st.integers(1, 3),
    patch=st.sampled_from([1, 2, 4]),
    norm=st.sampled_from(["group", "position"]),
    h=st.integers(1, 3),
    w=st.integers(1, 3),
)
def test_any_shape_makes_the_round_trip(levels: int, patch: int, norm: str, h: int, w: int) -> None:
    values = {**TINY, "ch_mult": [1, 2, 2][:levels], "patch_size": patch, "norm": norm, "norm_groups": 4}
    tokenizer = ImageTokenizer(VQConfig.from_dict(values)).eval()
    side = tokenizer.config.downscale
    pixels = torch.randint(0, 256, (2, 3, h * side, w * side), dtype=torch.uint8)
    with torch.inference_mode():
        tokens = tokenizer.from_pixels(pixels)
        again = tokenizer.to_pixels(tokens)
    assert tokens.shape == (2, h, w) and tokens.dtype == torch.int64
    assert 0 <= int(tokens.min()) and int(tokens.max()) < 32
    assert again.shape == pixels.shape and again.dtype == torch.uint8


def test_position_norm_keeps_codes_local_without_attention() -> None:
    """A far change must not move a token through the normalisation's statistics."""
    tokenizer = ImageTokenizer(VQConfig.from_dict(TINY)).eval()
    for part in (tokenizer.encoder.mid, tokenizer.decoder.mid):
        torch.nn.init.zeros_(part.attn_1.proj_out.weight)
    image = torch.rand(1, 3, 128, 8) * 2 - 1
    other = image.clone()
    other[:, :, 96:] = 0.5
    with torch.inference_mode():
        torch.testing.assert_close(
            tokenizer.features(image)[:, :, :8], tokenizer.features(other)[:, :, :8], rtol=0, atol=1e-5
        )


def test_pixels_convert_by_the_spec() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    floats = to_float(levels)
    assert floats.min() == -1 and floats.max() == 1
    assert torch.equal(
        to_uint8(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])), torch.tensor([0, 0, 127, 255, 255]).byte()
    )


def test_every_code_gets_gradient() -> None:
    """Index backpropagation: through the softmax, features feel all codes, not only the chosen ones."""
    tokenizer = ImageTokenizer(VQConfig.from_dict(TINY))
    tokenizer.quantize.normalize_codes()
    z = torch.randn(1, 4, 2, 2, requires_grad=True)
    quantized = tokenizer.quantize(z, 0.5)
    chosen = tokenizer.quantize.lookup(quantized.tokens)
    torch.testing.assert_close(quantized.z, chosen)
    torch.testing.assert_close(quantized.tokens, tokenizer.quantize.tokens(z))
    (quantized.z.square().sum() + quantized.z.sum() * 3).backward()
    assert z.grad.abs().sum() > 0
    quantized = tokenizer.quantize(z, 0.5)
    tokenizer.quantize.embedding.weight.grad = None
    # Neither the choice nor the commitment: the distribution alone reaches every code.
    quantized.entropy.backward()
    assert (tokenizer.quantize.embedding.weight.grad.abs().sum(dim=1) > 0).all()


def test_quantizer_works_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = ImageTokenizer(VQConfig.from_dict(TINY)).quantize
    z = torch.randn(2, 4, 5, 5)
    whole = quantizer.tokens(z)
    monkeypatch.setattr("smalti.vq.quantizer._CHUNK_ELEMENTS", 32 * 7)
    assert torch.equal(quantizer.tokens(z), whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in /proc")
def test_tokens_of_a_large_codebook_take_the_memory_of_a_chunk() -> None:
    code = """
from pathlib import Path
import torch
from smalti.vq.config import VQConfig
from smalti.vq.quantizer import Quantizer
def memory(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) * 1024
quantizer, z = Quantizer(VQConfig(codebook_size=2**16, embed_dim=4)), torch.randn(1, 4, 60, 50)
before = memory("VmRSS")
quantizer.tokens(z)
print(memory("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2e8  # all products would be 8e8


def test_discriminator_weights_feel_only_their_own_loss() -> None:
    judge = PatchDiscriminator(4)
    pictures = torch.rand(2, 3, 16, 16, requires_grad=True)
    judge.generator_loss(pictures).backward()
    assert pictures.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in judge.parameters())
    judge.own_loss(torch.rand(2, 3, 16, 16), pictures).backward()
    assert all(weight.grad is not None for weight in judge.parameters())


def test_decode_refuses_masks() -> None:
    tokenizer = ImageTokenizer(VQConfig.from_dict(TINY))
    with pytest.raises(SmaltiError, match="token ids must be from 0 to 31, not 0 to 33"):
        tokenizer.decode(torch.tensor([[[0, 33]]]))


def test_squares_that_are_alike_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_image_tokenizer(BUNDLED_MODELS["scenes"]).eval()
    scenes = torch.stack([Scenes(lattice=8, size=64)[index]["image"] for index in range(6)])
    expected = tokenizer.from_pixels(scenes)
    encoded = []
    plain = tokenizer.from_pixels
    monkeypatch.setattr(tokenizer, "from_pixels", lambda pixels: encoded.append(len(pixels)) or plain(pixels))
    memory = PatchMemory(tokenizer)
    with torch.inference_mode():
        for part in scenes.split(2):
            assert torch.equal(memory(part), expected[: len(part)])
            expected = expected[len(part) :]
        known = sum(encoded)
        assert known < 6 * 16
        memory(scenes)
        assert sum(encoded) == known
        monkeypatch.setattr("smalti.vq.patches._MOST", 0)
        assert torch.equal(PatchMemory(tokenizer)(scenes), plain(scenes))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pictures_have_the_same_tokens_on_a_gpu() -> None:
    tokenizer = load_image_tokenizer(BUNDLED_MODELS["scenes"]).eval()
    pixels = torch.stack([Scenes(seed=1)[index]["image"] for index in range(64)])
    with torch.inference_mode():
        expected = tokenizer.from_pixels(pixels)
        found = tokenizer.cuda().from_pixels(pixels.cuda()).cpu()
    assert (found == expected).float().mean() > 0.999


def test_encode_refuses_sides_that_do_not_fit() -> None:
    tokenizer = ImageTokenizer(VQConfig.from_dict(TINY))
    with pytest.raises(SmaltiError, match="multiples of 4 pixels, not 6×8"):
        tokenizer.encode(torch.zeros(1, 3, 8, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ch": 0}, "ch must be a whole number from 1 to 16384, not 0"),
        ({"codebook_size": "4096"}, "codebook_size must be a whole number"),
        ({"ch_mult": []}, "ch_mult must name at least one level"),
        ({"ch_mult": [1, -2]}, "ch_mult must be a list of up to 10 positive whole numbers"),
        ({"norm": "batch"}, "norm must be 'group' or 'position'"),
        ({"norm": "group", "norm_groups": 3}, "norm_groups 3 must divide the channels"),
        ({"double_z": True}, "double_z must be false"),
        ({"num_res_blocks": 2**31}, "num_res_blocks must be a whole number from 1 to 64"),
        ({"codebook_size": 10**30}, "codebook_size must be a whole number from 1 to"),
        ({"ch": float("nan")}, "ch must be a whole number"),
        ({"ch_mult": [1] * 99}, "ch_mult must be a list of up to 10"),
        ({"ch_mult": [True]}, "ch_mult must be a list"),
        ({"patch_size": 10**5000}, "patch_size must be a whole number"),
        ({"encoder": ["x" * 5000]}, r"encoder must be 'vqgan' or 'patch' or 'linear', not .{1,80}$"),
    ],
)
def test_config_names_what_is_wrong(change: dict, message: str) -> None:
    with pytest.raises(SmaltiError, match=message):
        VQConfig.from_dict({**TINY, **change})


def test_config_round_trip() -> None:
    config = VQConfig.from_dict(TINY)
    assert VQConfig.from_dict(config.to_dict()) == config
    assert config.downscale == 4
    assert VQConfig().downscale == 16 and VQConfig().attends(4) and not VQConfig().attends(3)


def test_kmeans_finds_separate_clusters_and_repeats_itself() -> None:
    generator = torch.Generator().manual_seed(1)
    middles = torch.eye(6) * 20
    points = (middles[:, None] + torch.randn(6, 30, 6, generator=generator)).flatten(0, 1)
    results = [kmeans(points, 6, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(results[0][1], results[1][1])
    groups = results[0][1].reshape(6, 30)
    assert (groups == groups[:, :1]).all() and groups[:, 0].unique().numel() == 6


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 12), copies=st.integers(0, 20), seed=st.integers(0, 99))
def test_kmeans_leaves_no_point_with_a_farther_center(count: int, copies: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.cat([torch.randn(12, 3, generator=generator), torch.zeros(copies, 3)])
    centers, assignment = kmeans(points, count, generator=generator)
    distances = torch.cdist(points, centers)
    torch.testing.assert_close(
        distances.gather(1, assignment[:, None])[:, 0], distances.min(dim=1).values, rtol=0, atol=1e-3
    )
    assert torch.equal(nearest(points, centers)[0], assignment)


def test_kmeans_refuses_more_groups_than_points() -> None:
    with pytest.raises(SmaltiError, match="from 1 to 3"):
        kmeans(torch.zeros(3, 2), 4, generator=torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("encoder", ["vqgan", "patch"])
def test_weights_in_16_bits_give_the_tokens_of_the_same_weights_in_float32(
    encoder: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    config = VQConfig(ch=16, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), z_channels=8, embed_dim=8,
                      codebook_size=512, patch_size=2, norm_groups=4, encoder=encoder)  # fmt: skip
    half, full = ImageTokenizer(config).to(dtype).eval(), ImageTokenizer(config).eval()
    full.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(half.from_pixels(pixels), full.from_pixels(pixels))
    with pytest.raises(SmaltiError, match="image sides must be positive multiples of 4 pixels"):
        half.from_pixels(pixels[..., :6])


def test_a_decoder_in_float16_does_not_overflow() -> None:
    """The sum that runs through all blocks is beyond float16, as in known VQGANs."""
    torch.manual_seed(0)
    config = VQConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), z_channels=8, embed_dim=8,
                      codebook_size=64, patch_size=2, norm_groups=4)  # fmt: skip
    full = ImageTokenizer(config).eval()
    with torch.no_grad():
        full.decoder.conv_in.weight.mul_(1e5)
        tokens = torch.randint(64, (1, 8, 8))
        plain = full.decode(tokens)
        half = full.half()
        decoded = half.decode(tokens, dtype=torch.float16)
        assert decoded.isfinite().all() and half.to_pixels(tokens).any()
        torch.testing.assert_close(decoded, plain, rtol=0, atol=0.05)


def test_dot_products_beyond_float16_choose_as_in_float32() -> None:
    quantizer = ImageTokenizer(VQConfig(codebook_size=4, embed_dim=8, ch=32, ch_mult=(1,))).quantize.half()
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.tensor([1.0, 200.0, 150.0, 300.0])[:, None].expand(4, 8))
        assert quantizer.tokens(torch.full((1, 8, 1, 1), 200.0).half()).item() == 3
