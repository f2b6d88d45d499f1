"""Decoding and encoding in bands: the plain result from any bands, in a known number of bytes, where it is needed."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import smalti
from smalti.errors import SmaltiError
from smalti.storage.folder import load_image_tokenizer
from smalti.vq import tokenizer as tokenizer_file
from smalti.vq import whole as whole_file
from smalti.vq.autoencoder import Decoder, Encoder
from smalti.vq.banded import _statistics, decode_in_bands, encode_in_bands, largest_map_bytes
from smalti.vq.config import VQConfig
from smalti.vq.tokenizer import ImageTokenizer

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "emu3_vqvae"
BUNDLED = Path(smalti.__file__).parent / "models" / "scenes" / "vq"
SMALL = VQConfig(
    ch=8,
    ch_mult=(1, 2),
    num_res_blocks=1,
    attn_resolutions=(128,),
    z_channels=8,
    embed_dim=4,
    codebook_size=32,
    norm_groups=4,
)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, by their storages, and keeps the largest sum.

    It sees what operations return, not what they need inside. Storages of `known` tensors do not count.
    """

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = self.largest = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        self.largest = max(self.largest, storage.nbytes())
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def small(seed: int = 0, **changes: Any) -> VQConfig:
    torch.manual_seed(seed)
    return VQConfig.from_dict({**SMALL.to_dict(), **changes})


shapes = {
    "multiples": st.lists(st.integers(1, 3), min_size=1, max_size=3),
    "patch": st.sampled_from([1, 2]),
    "norm": st.sampled_from(["group", "position"]),
    "size": st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5)),
    "band_bytes": st.one_of(st.just(1), st.integers(1, 20_000)),
    "keep_bytes": st.sampled_from([1, 10_000, 2**30]),
    "seed": st.integers(0, 99),
}


@settings(max_examples=15, deadline=None)
@given(**shapes)
def test_any_bands_decode_to_the_plain_result(
    multiples: list[int],
    patch: int,
    norm: str,
    size: tuple[int, int, int],
    band_bytes: int,
    keep_bytes: int,
    seed: int,
) -> None:
    config = small(seed, ch_mult=multiples, patch_size=patch, norm=norm)
    decoder, z = Decoder(config), torch.randn(size[0], 8, *size[1:])
    with torch.inference_mode():
        plain = decoder(z)
        banded = decode_in_bands(decoder, z, band_bytes=band_bytes, keep_bytes=keep_bytes)
    assert banded.is_contiguous()
    torch.testing.assert_close(banded, plain, rtol=0, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(**shapes)
def test_any_bands_encode_to_the_plain_result(
    multiples: list[int],
    patch: int,
    norm: str,
    size: tuple[int, int, int],
    band_bytes: int,
    keep_bytes: int,
    seed: int,
) -> None:
    config = small(seed, ch_mult=multiples, patch_size=patch, norm=norm)
    encoder, side = Encoder(config), config.downscale
    images = torch.rand(size[0], 3, size[1] * side, size[2] * side) * 2 - 1
    with torch.inference_mode():
        plain = encoder(images)
        banded = encode_in_bands(encoder, images, band_bytes=band_bytes, keep_bytes=keep_bytes)
    torch.testing.assert_close(banded, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("folder", [GOLDEN, BUNDLED], ids=["golden", "bundled"])
def test_real_weights(folder: Path) -> None:
    tokenizer = load_image_tokenizer(folder)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(tokenizer.config.codebook_size, (1, 7, 5), generator=generator)
    with torch.inference_mode():
        plain = tokenizer.decode(tokens)
        z = tokenizer.post_quant_conv(tokenizer.quantize.lookup(tokens))
        band = 3 * plain.shape[3] * 32 * 4  # three rows of the golden one's finest map: they divide nothing
        exact = decode_in_bands(tokenizer.decoder, z, band_bytes=band, keep_bytes=1)
        fast = decode_in_bands(tokenizer.decoder, z, dtype=torch.bfloat16, band_bytes=band)
    torch.testing.assert_close(exact, plain, rtol=0, atol=1e-4)
    difference = (fast.clamp(-1, 1) - plain.clamp(-1, 1)).abs().max() * 127.5
    assert 0 < difference <= 2, "in 1/255"


def test_statistics_of_values_far_from_zero() -> None:
    """Sums of squares would lose the variance here."""
    x = torch.randn(2, 6, 11, 5, generator=torch.Generator().manual_seed(0)) + 1000
    mean, variance = _statistics(x.split(3, dim=2), groups=2)
    groups = x.double().reshape(2, 2, -1)
    expected = groups.mean(dim=2), groups.var(dim=2, unbiased=False)
    torch.testing.assert_close(mean[:, ::3].double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(variance[:, ::3].double(), expected[1], rtol=1e-4, atol=0)


@pytest.mark.slow
def test_memory_of_the_release_at_1024() -> None:
    """The true widths, on the meta device: allocations without contents. More blocks a level would take no more."""
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in Decoder(VQConfig()).parameters())
        decoder = Decoder(VQConfig(num_res_blocks=1))
        z = torch.empty(1, 256, 64, 64)
    with torch.inference_mode(), LiveBytes([*decoder.parameters(), z]) as memory:
        decode_in_bands(decoder, z, band_bytes=2**24)  # above the default, for fewer steps
    assert memory.largest == 2**30, "one map of 1024² with 256 channels"
    assert memory.peak < 1.5e9
    assert memory.peak + 2 * weights < 2e9, "with the weights in 16 bits"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_memory_by_size_of_bands(dtype: torch.dtype) -> None:
    """One map, the quarter that the last doubling reads, and a few bands, against several maps without bands."""
    decoder = Decoder(small(ch=16, ch_mult=[1, 1, 2], attn_resolutions=[64]))
    z = torch.randn(1, 8, 48, 32)
    one_map = largest_map_bytes(small(ch=16, ch_mult=[1, 1, 2]), 192, 128)
    band = one_map // 48
    with torch.inference_mode(), LiveBytes([*decoder.parameters(), z]) as memory:
        decode_in_bands(decoder, z, dtype=dtype, band_bytes=band, keep_bytes=one_map // 4)
    assert memory.peak < 1.25 * one_map + 12 * band
    with torch.inference_mode(), LiveBytes([*decoder.parameters(), z]) as plain_memory:
        decoder(z)
    assert plain_memory.peak > 2.9 * one_map


@pytest.mark.parametrize("mult", [(1,), (2, 1), (1, 1, 2, 2, 4), (1, 2, 9)])
def test_largest_map_is_the_largest_that_decoding_makes(mult: tuple[int, ...]) -> None:
    config = small(ch=16, ch_mult=mult, patch_size=2, attn_resolutions=[1])
    seen = []
    with torch.device("meta"):
        decoder = Decoder(config)
        for module in decoder.modules():
            module.register_forward_hook(lambda module, args, result: seen.append(result.nbytes))
        decoder(torch.empty(1, 8, 3, 2))
    side = config.downscale
    assert largest_map_bytes(config, 3 * side, 2 * side) == max(seen)


def test_only_large_pictures_are_decoded_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ImageTokenizer(small())
    tokens = torch.randint(32, (2, 3, 4))

    def set_limit(count: int) -> None:
        for module in (tokenizer_file, whole_file):
            monkeypatch.setattr(module, "WHOLE_BYTES", count)

    with torch.inference_mode():
        plain = tokenizer.decode(tokens)
        whole = tokenizer.decoder(tokenizer.post_quant_conv(tokenizer.quantize.lookup(tokens)))
        torch.testing.assert_close(plain, whole, rtol=0, atol=1e-5)
        features = tokenizer.features(plain)
        # Two levels, so a map of 6 × 8 positions with 16 channels is the largest of a picture.
        set_limit(4 * 6 * 8 * 16)
        assert torch.equal(tokenizer.decode(tokens), plain)
        set_limit(4 * 6 * 8 * 16 - 1)
        calls = []
        for name in ("decode_in_bands", "encode_in_bands"):
            original = getattr(tokenizer_file, name)
            monkeypatch.setattr(
                tokenizer_file, name, lambda *a, f=original, **k: calls.append(f.__name__) or f(*a, **k)
            )
        torch.testing.assert_close(tokenizer.decode(tokens), plain, rtol=0, atol=1e-4)
        torch.testing.assert_close(tokenizer.features(plain), features, rtol=0, atol=1e-4)
        assert calls == ["decode_in_bands"] * 2 + ["encode_in_bands"] * 2
        coarse = tokenizer.decode(tokens, dtype=torch.bfloat16)
        assert coarse.dtype == torch.float32 and not torch.equal(coarse, plain)
    assert tokenizer.decode(tokens).requires_grad, "bands carry no gradient"


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float64])
def test_decoder_in_another_dtype_than_the_codebook(weights: torch.dtype) -> None:
    tokenizer = ImageTokenizer(small())
    tokens = torch.randint(32, (1, 3, 4))
    with torch.inference_mode():
        full = tokenizer.decode(tokens)
        tokenizer.decoder.to(weights)
        z = tokenizer.post_quant_conv(tokenizer.quantize.lookup(tokens))
        torch.testing.assert_close(tokenizer.decode(tokens).float(), full, rtol=0, atol=0.05)
        torch.testing.assert_close(decode_in_bands(tokenizer.decoder, z), full, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.int8}, "dtype must be a floating one, not torch.int8"),
        ({"band_bytes": 0}, "band_bytes must be at least 1, not 0"),
        ({"keep_bytes": -1}, "keep_bytes must be at least 1, not -1"),
    ],
)
def test_refuses_what_it_cannot_work_with(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SmaltiError, match=message):
        decode_in_bands(Decoder(SMALL), torch.zeros(1, 8, 2, 2), **change)
