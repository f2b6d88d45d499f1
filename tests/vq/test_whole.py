"""Whole feature maps or bands, and how many images at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from smalti.common import devices
from smalti.common.devices import available_bytes
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.runtime.compiling import check_compiler, compile_decoder
from smalti.runtime.memory import Mode
from smalti.vq import tokenizer as tokenizer_file
from smalti.vq.config import VQConfig
from smalti.vq.layers import ResnetBlock, normalise, scaled_and_shifted
from smalti.vq.tokenizer import ImageTokenizer
from smalti.vq.whole import images_at_once, in_layout

GB = 10**9
REFERENCE = VQConfig()
SMALL = VQConfig(
    ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=8, embed_dim=8, codebook_size=32, norm_groups=4
)


def make_tokenizer(config=SMALL):
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(config).eval()
    for module in tokenizer.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return tokenizer


@pytest.mark.parametrize(
    ("side", "kind", "room", "itemsize", "expected"),
    [
        (1024, "cuda", 80 * GB, 4, 1),
        (1024, "cuda", 8 * GB, 4, 0),
        (1024, "cuda", 8 * GB, 2, 1),
        (256, "cuda", 80 * GB, 4, 4),
        (256, "cuda", 80 * GB, 2, 8),
        (256, "cuda", GB, 4, 1),
        (256, "cuda", 10**8, 4, 0),
        (1024, "cuda", None, 4, 0),
        (512, "mps", None, 4, 1),
        (1024, "cpu", 80 * GB, 4, 0),
        (512, "cpu", 80 * GB, 4, 1),
        (512, "cpu", GB, 4, 0),
    ],
)
def test_images_at_once(side, kind, room, itemsize, expected):
    assert images_at_once(REFERENCE, side, side, kind=kind, itemsize=itemsize, room=room) == expected


def test_more_room_never_means_fewer_images():
    counts = [images_at_once(REFERENCE, 256, 256, kind="cuda", room=room * 10**8) for room in range(1, 60)]
    assert counts == sorted(counts) and counts[0] == 0


@pytest.mark.parametrize("config", [SMALL, VQConfig(**{**vars(SMALL), "norm": "position"})])
def test_images_do_not_depend_on_the_way(config, monkeypatch):
    tokenizer = make_tokenizer(config)
    tokens = torch.randint(32, (3, 4, 6), generator=torch.Generator().manual_seed(1))
    expected = tokenizer.decode(tokens).detach()
    assert tokenizer.decode(tokens).requires_grad
    for count in (0, 1, 2, 3):
        monkeypatch.setattr(tokenizer_file, "images_at_once", lambda *_, found=count, **__: found)
        with torch.inference_mode():
            torch.testing.assert_close(tokenizer.decode(tokens), expected, rtol=0, atol=2e-5)


def test_bands_follow_where_memory_runs_out(monkeypatch):
    tokenizer = make_tokenizer()
    tokens = torch.randint(32, (2, 4, 4))
    with torch.inference_mode():
        expected = tokenizer.decode(tokens)

        def refuse(*_):
            raise torch.OutOfMemoryError("no memory")

        handle = tokenizer.decoder.register_forward_pre_hook(refuse)
        torch.testing.assert_close(tokenizer.decode(tokens), expected, rtol=0, atol=2e-5)
        handle.remove()


def test_a_limit_counts_beside_the_free_memory(monkeypatch):
    tokenizer, seen = make_tokenizer(), []
    monkeypatch.setattr(tokenizer_file, "images_at_once", lambda *_, room, **__: seen.append(room) or 1)
    with torch.inference_mode():
        for free in (None, 500):
            monkeypatch.setattr(tokenizer_file, "available_bytes", lambda _, found=free: found)
            for room in (None, 400, 600):
                tokenizer.decode(torch.zeros(1, 2, 2, dtype=torch.int64), room=room)
    assert seen == [None, 400, 600, 500, 400, 500]


def test_components_pass_the_limit_on(monkeypatch):
    tokenizer, seen = make_tokenizer(), []
    to_pixels = tokenizer.to_pixels
    monkeypatch.setattr(
        tokenizer,
        "to_pixels",
        lambda tokens, *, dtype, room: seen.append((len(tokens), room)) or to_pixels(tokens),
    )
    components = object.__new__(Components)
    object.__setattr__(components, "image_tokenizer", tokenizer)
    object.__setattr__(components, "mode", Mode(pixel_bytes=123))
    assert components.decode(torch.zeros(2, 2, 2, dtype=torch.int64)).shape == (2, 3, 4, 4)
    assert seen == [(1, 123), (1, 123)]
    with pytest.raises(SmaltiError, match="token ids"):
        components.decode(torch.full((1, 2, 2), 99))


def test_memory_of_a_gpu(monkeypatch):
    """What PyTorch holds and does not use is free, and a limit of its allocator is kept."""
    numbers = {"memory_allocated": 30, "memory_reserved": 50, "get_per_process_memory_fraction": 0.5}
    for name, value in numbers.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, found=value: found, raising=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20, 200))
    assert available_bytes(torch.device("cuda")) == 20 + 50 - 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (150, 200))
    assert available_bytes(torch.device("cuda")) == 100 - 30
    monkeypatch.setattr(devices, "host_bytes", lambda: 7)
    assert available_bytes(torch.device("cpu")) == 7 and available_bytes(torch.device("mps")) is None


def test_norm_of_any_layout():
    norm, x = nn.GroupNorm(4, 16, eps=1e-6), torch.randn(2, 16, 5, 7) * 3 + 1
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    last = x.contiguous(memory_format=torch.channels_last)
    for one in (x, last):
        found = scaled_and_shifted(norm, one)
        torch.testing.assert_close(found, norm(x), rtol=1e-5, atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last) == (one is last)
        torch.testing.assert_close(normalise(norm, one), norm(x), rtol=1e-5, atol=1e-5)
    half = scaled_and_shifted(norm.bfloat16(), x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, norm(x.bfloat16()), rtol=0.05, atol=0.05)


def test_layout():
    z = torch.zeros(1, 8, 4, 4)
    assert in_layout(z).is_contiguous(memory_format=torch.channels_last)


def test_blocks_leave_their_input_alone():
    block, x = ResnetBlock(8, 8, SMALL), torch.randn(1, 8, 4, 4)
    before, expected = x.clone(), block(x).detach()
    with torch.inference_mode():
        torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-6)
    assert torch.equal(x, before)


@pytest.mark.slow
def test_compiled_blocks():
    try:
        check_compiler(torch.device("cpu"))
    except SmaltiError as error:
        pytest.skip(str(error))
    tokenizer = make_tokenizer()
    tokens = torch.randint(32, (1, 4, 4))
    names = list(tokenizer.state_dict())
    with torch.inference_mode():
        expected = tokenizer.decode(tokens)
        compile_decoder(tokenizer)
        for grid in (tokens, tokens.repeat(1, 2, 1)):
            assert tokenizer.decode(grid).shape[2] == 2 * grid.shape[1]
        torch.testing.assert_close(tokenizer.decode(tokens), expected, rtol=0, atol=2e-5)
    assert list(tokenizer.state_dict()) == names
