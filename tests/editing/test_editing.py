"""Editing by tokens: which are selected, what stays, what the result holds, and what is refused."""

from __future__ import annotations

import json
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from folders import write_tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_denoiser, tiny_prompts

import smalti
from smalti import SmaltiError
from smalti.common.images import save_image
from smalti.editing.blending import blend, falloff
from smalti.editing.canvas import Canvas, fit
from smalti.editing.edit import start_edit
from smalti.editing.embedded import TEXT, find_embedded
from smalti.editing.picture import LARGEST_PIXELS, Picture, open_mask, open_picture
from smalti.editing.regions import NothingChosen, losing_tokens, most_losing, random_share, touched_tokens
from smalti.editing.selection import Selection
from smalti.generation.settings import GenerationSettings
from smalti.reading.likelihood import (
    complementary_masks,
    likelihood_drop,
    log_probabilities,
    negative_log_likelihood,
)

NEW, OLD = "a green circle", "a red circle"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return smalti.load(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def scene():
    return noise(64, 64)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Return an image of soft spots: neighbouring pixels are alike, and no two tokens are."""
    small = np.random.default_rng(0).integers(0, 256, (9, 9, channels), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def half_mask(height: int = 64, width: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[:, : width // 2] = True
    return mask


SELECTIONS = {
    "automatic": {"source_prompt": OLD},
    "share": {"source_prompt": OLD, "share": 0.3},
    "no source": {"source_prompt": "", "threshold": 0.5},
    "mask": {"mask": half_mask()},
    "mask and strength": {"mask": half_mask(), "strength": 0.5},
    "strength": {"strength": 0.4},
    "grow": {"grow": (20, 0, 0, 9)},
}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_tokens_that_are_not_selected_stay_bit_for_bit(pipe, scene, selection):
    """Whatever the sampler: editing of any kind happens inside the region only."""
    for changes in (
        {"revision": "threshold:0.01"},
        {"revision": "threshold:0.01", "final": "release", "order": "random"},
        {"revision": "running_confidence", "budget": "adaptive"},
    ):
        chosen = pipe.settings.replaced(num_inference_steps=6, **changes)
        result = pipe.edit(
            scene, NEW, settings=chosen, seed=3, num_images_per_prompt=2, **SELECTIONS[selection]
        )
        region, before = result.region, result.tokens_before
        assert region.any() and not region.all()
        assert torch.equal(result.tokens[:, ~region], before[~region].expand(2, -1))
        assert (result.tokens[:, region] < 64).all() and not torch.equal(result.tokens[0], result.tokens[1])
        assert (result.loss is not None) == (selection in ("automatic", "share", "no source"))


def test_pixels_outside_are_the_images_own(pipe, scene):
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 2:4] = True
    result = pipe.edit(scene, NEW, mask=mask, seed=0, num_inference_steps=2)
    edited, drawn = np.array(result.image), pipe.components.decode(result.tokens)[0].permute(1, 2, 0).numpy()
    inside = np.zeros((64, 64), dtype=bool)
    inside[16:32, 16:32] = True
    far = np.ones((64, 64), dtype=bool)
    far[: 32 + 16, : 32 + 16] = False
    assert np.array_equal(edited[inside], drawn[inside])
    assert np.array_equal(edited[far], scene[far])
    assert not np.array_equal(edited, scene) and not np.array_equal(drawn[far], scene[far])
    loose = pipe.edit(scene, NEW, mask=mask, seed=0, num_inference_steps=2, keep_pixels=False)
    assert np.array_equal(np.array(loose.image), drawn) and torch.equal(loose.tokens, result.tokens)


def test_same_seed_same_edit_alone_or_with_others(pipe, scene):
    options = {"source_prompt": OLD, "num_inference_steps": 8}
    several = pipe.edit(scene, NEW, seed=5, num_images_per_prompt=3, **options)
    alone = pipe.edit(scene, NEW, seed=7, **options)
    assert several.seeds == [5, 6, 7]
    assert torch.equal(several.tokens[2], alone.tokens[0]) and torch.equal(several.region, alone.region)
    assert several.images[2].tobytes() == alone.image.tobytes()
    assert several.only(2).image is several.images[2] and several.only(2).seeds == [7]
    # A random selection follows the seed too.
    varied = [pipe.edit(scene, NEW, seed=seed, strength=0.4, num_inference_steps=2) for seed in (1, 1, 2)]
    assert torch.equal(varied[0].region, varied[1].region)
    assert not torch.equal(varied[0].region, varied[2].region)
    with pytest.raises(SmaltiError, match="index must be below 3"):
        several.only(3)


def test_the_callback_sees_every_step(pipe, scene):
    seen = []
    pipe.edit(
        scene,
        NEW,
        mask=half_mask(),
        num_inference_steps=4,
        callback_on_step_end=lambda caller, index, unknown, state: seen.append((caller, index, unknown)),
    )
    assert [(caller, index) for caller, index, _ in seen] == [(pipe, index) for index in range(4)]
    assert seen[0][2] <= 0.5 and seen[-1][2] == 0


def test_ten_edits_in_a_row_leave_the_rest_alone(pipe, scene):
    """By results in Python: tokens never selected are those of the first encoding, far pixels the image's own."""
    result, prompts = None, [f"{number} blue stars" for number in range(10)]
    chosen = torch.zeros(8, 8, dtype=torch.bool)
    for number, prompt in enumerate(prompts):
        mask = np.zeros((8, 8), dtype=bool)
        mask[:3, number % 3] = True
        before = result
        result = pipe.edit(
            scene if before is None else before, prompt, mask=mask, seed=number, num_inference_steps=2
        )
        if before is None:
            first = result.tokens_before
        else:
            assert torch.equal(result.tokens_before, before.tokens[0])
        chosen |= result.region
    assert torch.equal(result.tokens[0][~chosen], first[~chosen])
    assert np.array_equal(np.array(result.image)[40:, 40:], scene[40:, 40:])
    # The prompt goes along too.
    assert pipe.edit(result, "three stars", num_inference_steps=2).source_prompt == prompts[-1]


def test_a_generated_image_brings_its_tokens_and_its_prompt(pipe):
    drawn = pipe(OLD, seed=1, num_inference_steps=4)
    result = pipe.edit(drawn, NEW, num_inference_steps=4)
    assert torch.equal(result.tokens_before, drawn.tokens[0]) and result.source_prompt == OLD
    assert not torch.equal(
        pipe.edit(drawn.images[0], NEW, num_inference_steps=4).tokens_before, drawn.tokens[0]
    )
    with pytest.raises(SmaltiError, match="image must be one image, but the result holds 2"):
        pipe.edit(pipe([OLD, NEW], num_inference_steps=1), NEW)


def test_embedded_tokens_are_valid_for_the_same_pixels_and_codebook_only(pipe, tmp_path):
    result = pipe.edit(noise(50, 70), NEW, strength=0.5, seed=0, num_inference_steps=2)
    text = result.embedded().to_text(Picture(np.array(result.image)))
    save_image(result.image, tmp_path / "a.png", {TEXT: text, "prompt": NEW})
    found = find_embedded(open_picture(tmp_path / "a.png"), pipe.image_tokenizer)
    assert torch.equal(found.tokens, result.tokens[0]) and found.canvas == result.canvas
    # One changed pixel makes it another image.
    changed = np.array(result.image)
    changed[0, 0, 0] ^= 1
    save_image(Image.fromarray(changed), tmp_path / "b.png", {TEXT: text})
    assert find_embedded(open_picture(tmp_path / "b.png"), pipe.image_tokenizer) is None
    with torch.no_grad():
        codes = pipe.image_tokenizer.quantize.embedding.weight
        old = codes.clone()
        codes.copy_(old.roll(1, 0))
        assert find_embedded(open_picture(tmp_path / "a.png"), pipe.image_tokenizer) is None
        codes.copy_(old)
    values = json.loads(text)
    for name, value in (
        ("tokens", "AAAA"),
        ("tokens", "not base64!"),
        ("tokens", 3),
        ("grid", [0, 8]),
        ("grid", [8, 7]),
        ("grid", [10**6, 10**6]),
        ("place", [0, 0, 999, 64]),
        ("place", [0, 0]),
        ("size", [70, 50]),
        ("canvas", [64, 128]),
        ("version", 2),
        ("codebook", None),
    ):
        for damaged in (json.dumps({**values, name: value}), json.dumps({**values, name: value})[:-9]):
            picture = Picture(np.array(result.image), {TEXT: damaged})
            assert find_embedded(picture, pipe.image_tokenizer) is None
    assert find_embedded(Picture(np.array(result.image), {TEXT: "[1]"}), pipe.image_tokenizer) is None


def test_a_size_of_ones_own_encodes_again(pipe):
    drawn = pipe(OLD, seed=1, num_inference_steps=2)
    assert pipe.edit(drawn, NEW, strength=0.2, height=32, width=96).tokens.shape == (1, 4, 12)
    same = pipe.edit(drawn, NEW, strength=0.2, height=64, width=64)
    assert torch.equal(same.tokens_before, drawn.tokens[0])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 150), st.integers(1, 150), st.sampled_from(["RGB", "L", "RGBA", "P", "LA", "1", "CMYK"])
)
def test_every_size_and_mode_comes_back_as_large(pipe, height, width, mode):
    picture = Image.fromarray(noise(height, width, 4), "RGBA")
    if mode != "RGBA":
        picture = picture.convert("RGB").convert(mode)
    result = pipe.edit(picture, NEW, strength=0.5, seed=0, num_inference_steps=1)
    assert result.image.size == (width, height) and result.map().size == (width, height)
    assert result.image.mode == ("RGBA" if mode in ("RGBA", "LA") else "RGB")
    assert result.tokens.shape == (1, 8, 8)


def test_a_turned_photograph_is_edited_upright(pipe, tmp_path):
    upright = noise(40, 64)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the file holds the image on its side
    Image.fromarray(upright).rotate(90, expand=True).save(tmp_path / "a.png", exif=exif)
    mask = np.zeros((40, 64), dtype=bool)
    mask[:8, :8] = True
    result = pipe.edit(str(tmp_path / "a.png"), NEW, mask=mask, num_inference_steps=1)
    assert result.image.size == (64, 40)
    assert np.array_equal(np.array(result.image)[:, 32:], upright[:, 32:])


def test_transparency_stays_where_nothing_was_drawn(pipe):
    pixels = noise(64, 64, 4)
    pixels[..., 3] = 100
    mask = np.zeros((8, 8), dtype=bool)
    mask[:2, :2] = True
    edited = np.array(pipe.edit(pixels, NEW, mask=mask, num_inference_steps=1).image)
    assert (edited[:16, :16, 3] == 255).all() and np.array_equal(edited[32:, 32:], pixels[32:, 32:])


def test_growing_keeps_the_image_and_its_tokens(pipe, scene):
    first = pipe.edit(scene, OLD, strength=0.3, seed=0, num_inference_steps=2)
    grown = pipe.edit(first, OLD, grow=(20, 16, 3, 0), seed=0, num_inference_steps=2)
    assert grown.image.size == (64 + 23, 64 + 16)
    # 20 pixels are two and a half tokens and take two blocks of two tokens, 16 take one, 3 take another.
    assert grown.tokens.shape == (1, 8 + 2, 8 + 4 + 2)
    assert torch.equal(grown.tokens[0, 2:, 4:12], first.tokens[0])
    assert torch.equal(
        grown.region,
        torch.ones(10, 14, dtype=torch.bool).index_put(
            (torch.arange(2, 10)[:, None], torch.arange(4, 12)), torch.tensor(False)
        ),
    )
    inner = np.array(grown.image)[16 + 16 :, 20 + 16 : 20 + 48]
    assert np.array_equal(inner, np.array(first.image)[16:, 16:48])
    # And once more, from there.
    again = pipe.edit(grown, OLD, grow=(0, 0, 0, 16), seed=0, num_inference_steps=2)
    assert again.image.size == (87, 96) and again.tokens.shape == (1, 12, 14)
    # The image began 12 pixels from the canvas's edge and ended 99 from it: columns 1 to 12.
    assert torch.equal(again.tokens[0, :10, 1:13], grown.tokens[0, :, 1:13])
    assert not again.region[:10, 1:13].any() and again.region[10:].all()


def test_every_mask_that_means_the_same_selects_the_same(pipe, scene, tmp_path):
    grid = np.zeros((8, 8), dtype=bool)
    grid[1:3, 4:7] = True
    pixels = np.zeros((64, 64), dtype=bool)
    pixels[15, 32] = pixels[23, 55] = True  # one pixel is enough for a token
    pixels[8:16, 32:56] = pixels[16:24, 40:48] = pixels[20, 35] = True
    grey = Image.fromarray(pixels.astype(np.uint8) * 200)
    grey.save(tmp_path / "mask.png")
    clear = Image.merge("LA", (Image.new("L", (64, 64), 255), grey))
    for mask in (
        grid,
        torch.from_numpy(grid),
        pixels,
        pixels.astype(np.uint8) * 255,
        grey,
        grey.convert("RGB"),
        clear,
        tmp_path / "mask.png",
    ):
        result = pipe.edit(scene, NEW, mask=mask, num_inference_steps=1, seed=0)
        assert np.array_equal(result.region.numpy(), grid), mask


BAD_EDITS = {
    "mask must be as large as the image, 64×64 pixels, not 32×64": {"mask": Image.new("L", (32, 64), 255)},
    "64×64 pixels, or as its grid, 8×8 tokens, not 5×5": {"mask": np.ones((5, 5), dtype=bool)},
    "mask must not be empty": {"mask": np.zeros((8, 8), dtype=bool)},
    "mask must not cover everything": {"mask": Image.new("L", (64, 64), 255)},
    "mask must be an image, its file or the file's name, not float": {"mask": 0.5},
    "mask: none.png does not exist": {"mask": "none.png"},
    "mask as an array must be": {"mask": np.ones((8, 8, 8), dtype=np.float32)},
    "prompt and source_prompt are the same": {"source_prompt": " a  green circle "},
    "source_prompt must be text, not int": {"source_prompt": 3},
    "source_prompt is for the automatic selection": {"source_prompt": OLD, "strength": 0.5},
    "share is for the automatic selection": {"share": 0.5, "mask": half_mask()},
    "share and threshold must not both": {"share": 0.5, "threshold": 0.5},
    "strength must be a finite number above 0 and at most 1, not 0": {"strength": 0},
    "strength must be a finite number above 0 and at most 1, not 1.5": {"strength": 1.5},
    "share must be a finite number above 0": {"share": -1},
    "threshold must be a finite number": {"threshold": 2},
    "grow must be four numbers": {"grow": (1, 2)},
    "grow must be a whole number from 0 to 64000000, not -1": {"grow": (-1, 0, 0, 0)},
    "grow must add at least one pixel": {"grow": (0, 0, 0, 0)},
    "grow excludes mask and strength": {"grow": (64, 0, 0, 0), "strength": 0.5},
    "height must be a multiple of 16 pixels, not 60": {"strength": 0.5, "height": 60},
    "prompt must not be empty": {"prompt": " ", "strength": 0.5},
    "prompt must be text": {"prompt": 3},
    "settings and preset must not both": {"settings": GenerationSettings(), "preset": "fast"},
    "num_images_per_prompt must be a whole number": {"strength": 0.5, "num_images_per_prompt": 0},
    "num_images_per_prompt must be a whole number from 1 to 100000": {
        "strength": 0.5,
        "num_images_per_prompt": 2**70,
    },
    "num_inference_steps must be at most 64": {"strength": 0.5, "num_inference_steps": 65},
    "seed must be a whole number": {"strength": 0.5, "seed": -1},
    "image must be an image, its file or the file's name, not int": {"image": 3, "strength": 0.5},
    "image as an array must be": {"image": np.zeros((4, 4), dtype=np.float32), "strength": 0.5},
    "image must have at least one pixel, not 5×0": {"image": np.zeros((0, 5, 3), np.uint8), "strength": 0.5},
    "image must have at least one pixel, not 0×5": {"image": Image.new("RGB", (0, 5)), "strength": 0.5},
    "image: none.png does not exist": {"image": "none.png", "strength": 0.5},
}


@pytest.mark.parametrize("message", BAD_EDITS)
def test_bad_edits_are_named_in_one_line(pipe, scene, message):
    with pytest.raises(SmaltiError, match=re.escape(message)) as caught:
        pipe.edit(**{"image": scene, "prompt": NEW, **BAD_EDITS[message]})
    assert "\n" not in str(caught.value)


def test_files_that_are_not_images(pipe, tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    save_image(Image.fromarray(noise(64, 64)), tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:2000])
    for name in ("a.png", "b.png", "."):
        with pytest.raises(SmaltiError, match="is not a readable image"):
            pipe.edit(tmp_path / name, NEW, strength=0.5)


def test_large_images_are_refused_by_their_header(tmp_path, recwarn):
    """At 100 megapixels Smalti refuses, at 400 Pillow itself: these files hold only their header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    for side, message in (
        (10_000, "image must have at most 64 megapixels, not 10000×10000, which is 100"),
        (20_000, "image: .*a.png is not a readable image: it has more than 178 megapixels"),
    ):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
        with pytest.raises(SmaltiError, match=message):
            open_picture(tmp_path / "a.png")
    assert LARGEST_PIXELS == 64_000_000 and not recwarn.list


# The selection.


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 2]), st.integers(2, 9), st.integers(0, 99))
def test_complementary_masks_show_every_token_once_in_whole_blocks(rows, columns, block, count, seed):
    generator = torch.Generator().manual_seed(seed)
    if rows * columns < count:
        with pytest.raises(SmaltiError, match="number of blocks"):
            complementary_masks(rows * block, columns * block, block, count, generator)
        return
    hidden = complementary_masks(rows * block, columns * block, block, count, generator)
    assert hidden.shape == (count, rows * block, columns * block)
    assert ((~hidden).sum(dim=0) == 1).all() and (~hidden).flatten(1).any(dim=1).all()
    first = hidden[:, ::block, ::block].repeat_interleave(block, 1).repeat_interleave(block, 2)
    assert torch.equal(hidden, first)


def test_log_probabilities_are_those_of_the_whole_distribution():
    denoiser = tiny_denoiser(scale=4.0)
    prompt = tiny_prompts(denoiser, [NEW], (6, 4))
    tokens = torch.randint(0, 64, (6, 4), generator=torch.Generator().manual_seed(0))
    hidden = torch.rand(5, 6, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    found = log_probabilities(denoiser, prompt, tokens, hidden, at_once=2)
    for mask, values in zip(hidden, found, strict=True):
        with torch.inference_mode():
            vectors = denoiser(tokens.masked_fill(mask, denoiser.config.mask_code)[None], prompt)
            expected = (vectors[0] @ denoiser.head.T).log_softmax(dim=1).gather(1, tokens.view(-1, 1))
        assert torch.allclose(values[mask], expected.view(6, 4)[mask], atol=1e-4)
        assert (values[~mask] == 0).all()
    mean = negative_log_likelihood(denoiser, prompt, tokens, hidden)
    assert torch.allclose(mean, -found.sum(0) / hidden.sum(0).clamp_min(1), atol=1e-5)


def test_likelihood_drop_compares_prompts():
    denoiser = tiny_denoiser(scale=4.0)
    new, old = (tiny_prompts(denoiser, [text], (6, 4)) for text in (NEW, OLD))
    tokens = torch.randint(0, 64, (6, 4), generator=torch.Generator().manual_seed(0))
    for passes in (1, 3, 5):
        loss = likelihood_drop(denoiser, new, old, tokens, passes=passes)
        assert loss.shape == (6, 4) and loss.abs().max() > 0.001
        assert torch.allclose(likelihood_drop(denoiser, old, new, tokens, passes=passes), -loss, atol=1e-4)
        assert (likelihood_drop(denoiser, new, new, tokens, passes=passes) == 0).all()
        one_by_one = likelihood_drop(denoiser, new, old, tokens, passes=passes, at_once=1)
        assert torch.allclose(one_by_one, loss, atol=1e-4)
    everything = torch.ones(1, 6, 4, dtype=torch.bool)
    alone = [log_probabilities(denoiser, one, tokens, everything)[0] for one in (old, new)]
    expected = torch.logaddexp(alone[0], torch.tensor(1 / 16 / 64).log()) - torch.logaddexp(
        alone[1], torch.tensor(1 / 16 / 64).log()
    )
    assert torch.allclose(likelihood_drop(denoiser, new, old, tokens, passes=1), expected, atol=1e-4)
    for passes in (0, 2, 8):
        with pytest.raises(SmaltiError, match="passes|count"):
            likelihood_drop(denoiser, new, old, tokens, passes=passes)


def test_the_threshold_takes_what_loses_and_leaves_specks():
    loss = torch.full((8, 8), 0.1)
    loss[:4, :2] = 2.0
    loss[0, 0] = -1.0  # one odd token does not make a hole in a block
    loss[6:, 6:] = 0.9  # a speck: above the threshold, but much less in all
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:4, :2] = True
    assert torch.equal(losing_tokens(loss, threshold=0.3), expected)
    loss[4:, 4:] = 1.8
    expected[4:, 4:] = True
    assert torch.equal(losing_tokens(loss, threshold=0.3), expected)
    assert torch.equal(losing_tokens(1000 * loss, threshold=0.3), expected)
    with pytest.raises(NothingChosen, match="makes no token of the image less likely"):
        losing_tokens(-loss)
    assert losing_tokens(loss, threshold=1).any()


fractions = st.floats(0.01, 1)
grids = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 999))


@given(grids, fractions, st.sampled_from([1, 2]))
def test_a_share_is_as_large_as_asked(grid, share, block):
    height, width, seed = grid
    generator = torch.Generator().manual_seed(seed)
    loss = torch.randn(height, width, generator=generator)
    count = max(1, round(share * height * width))
    assert int(most_losing(loss, share, block=block).sum()) == count
    assert int(random_share(loss, share, generator, block=block).sum()) == count
    within = torch.rand(height, width, generator=generator) < 0.5
    if within.any():
        drawn = random_share(loss, share, generator, within=within, block=block)
        assert int(drawn.sum()) == max(1, round(share * int(within.sum()))) and not (drawn & ~within).any()


def test_shares_prefer_the_least_likely_tokens():
    values = torch.zeros(8, 8)
    values[2:6, 2:6] = 3.0
    assert torch.equal(most_losing(values, 0.25), values > 0)
    counts = sum(random_share(values, 0.25, torch.Generator().manual_seed(seed)) for seed in range(200))
    likely, other = float(counts[values > 0].float().mean()), float(counts[values == 0].float().mean())
    assert 200 > likely > 3 * other > 0


# Pixels.


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([(64, 64), (32, 96)]))
@settings(deadline=None)
def test_an_image_fits_its_canvas(height, width, canvas):
    found = fit((height, width), canvas)
    top, left, rows, columns = found.place
    assert 0 <= top and 0 <= left and top + rows <= canvas[0] and left + columns <= canvas[1]
    assert rows == canvas[0] or columns == canvas[1]
    pixels = noise(height, width)
    placed = found.put(pixels)
    assert placed.shape == (*canvas, 3)
    # The rest of the canvas repeats the image's edge.
    assert (placed[:top] == placed[top]).all() and (
        placed[:, left + columns :] == placed[:, left + columns - 1 : left + columns]
    ).all()
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 2, width // 3] = True
    touched = found.put_mask(mask)
    assert touched.any() and (touched.all() or max(height, width) > 1)
    assert found.put_mask(np.ones((height, width), dtype=bool)).all()
    assert not found.put_mask(np.zeros((height, width), dtype=bool)).any()


@given(
    st.tuples(*[st.integers(0, 50)] * 4).filter(any),
    st.sampled_from([(64, 64), (40, 64), (128, 100), (30, 17)]),
)
def test_a_grown_canvas_keeps_what_was_there_in_place(edges, size):
    left, top, right, bottom = edges
    canvas = fit(size, (64, 64))
    grown, (down, along) = canvas.grown(edges, 16)
    assert down % 16 == along % 16 == 0 and all(side % 16 == 0 for side in grown.canvas)
    assert grown.size == (size[0] + top + bottom, size[1] + left + right)
    y, x, height, width = grown.place
    assert y >= 0 and x >= 0 and y + height <= grown.canvas[0] and x + width <= grown.canvas[1]
    # The old image's corners are where they were, but for the shift and the rounding of the scale.
    old = canvas.place
    assert abs(x + left * width / grown.size[1] - (along + old[1])) <= 1.5
    assert abs(y + top * height / grown.size[0] - (down + old[0])) <= 1.5


def test_lifting_rows_is_lifting_all(scene):
    canvas = Canvas((100, 90), (64, 64), (4, 0, 60, 64))
    image = Image.fromarray(scene)
    whole = np.array(canvas.lift(image, (0, 100)))
    parts = [np.array(canvas.lift(image, (first, first + 20))) for first in range(0, 100, 20)]
    assert np.abs(whole.astype(int) - np.concatenate(parts)).max() <= 2


def test_blending_leaves_no_seam_and_no_trace():
    original = noise(64, 64)
    before = (original // 2 + 40).astype(np.uint8)  # a poor tokenizer
    region = np.zeros((64, 64), dtype=bool)
    region[24:40, 24:40] = True
    canvas = fit((64, 64), (64, 64))
    # Equal tokens: the decoder's image is shown inside the region, the original elsewhere.
    same = blend(original, canvas, before, before, region, 8)
    assert np.array_equal(same[region], before[region])
    outside = falloff(region, 0, 2) == 0
    assert np.array_equal(same[outside], original[outside])
    # The decoder darkens unchanged tokens beside the region: the original follows within two tokens.
    after = (before - 20).astype(np.uint8)
    darker = blend(original, canvas, before, after, region, 8).astype(int)
    near = (falloff(region, 0, 8) > 0) & outside
    assert np.array_equal(darker[near], np.clip(original.astype(int) - 20, 0, 255)[near])
    far = falloff(region, 0, 16) == 0
    assert np.array_equal(darker[far], original[far])


def test_falloff():
    region = np.zeros((1, 9), dtype=bool)
    region[0, 0] = True
    assert np.allclose(falloff(region, 2, 6)[0], [1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0])
    assert np.allclose(falloff(region, 0, 2)[0, :4], [1, 0.5, 0, 0])


def test_touched_tokens():
    mask = np.zeros((16, 24), dtype=bool)
    mask[7, 8] = True
    assert touched_tokens(mask, 8).tolist() == [[False, True, False], [False, False, False]]


def test_an_edit_is_taken_step_by_step(pipe, scene):
    """The region is known before the first step, and a caller may stop there."""
    settings = pipe.settings.replaced(num_inference_steps=6)
    whole = pipe.edit(scene, NEW, settings=settings, seed=3)
    edit = start_edit(pipe.components, scene, NEW, Selection(), settings, seed=3)
    assert torch.equal(edit.region, whole.region) and edit.seeds == [3]
    calls = []
    hook = pipe.denoiser.register_forward_pre_hook(lambda *event: calls.append(1))
    steps = [next(edit), next(edit)]
    hook.remove()
    assert len(calls) == 2 and not bool(steps[1].revealed[0][~whole.region].any())
    assert torch.equal(edit.output().tokens, whole.tokens)


def test_a_negative_prompt_of_an_edit(pipe, scene):
    settings = pipe.settings.replaced(num_inference_steps=6)
    plain, negative = (
        pipe.edit(scene, NEW, settings=settings, seed=3, strength=0.6, negative_prompt=text)
        for text in (None, "a yellow star")
    )
    assert torch.equal(plain.region, negative.region) and not torch.equal(plain.tokens, negative.tokens)
    assert (plain.negative_prompt, negative.negative_prompt) == (None, "a yellow star")


def test_a_mask_on_a_device_without_float64() -> None:
    """Apple's devices refuse to convert to float64, so a mask leaves its device first."""

    class OnApple(torch.Tensor):
        def double(self) -> torch.Tensor:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

        def cpu(self) -> torch.Tensor:
            return self.as_subclass(torch.Tensor)

    with pytest.raises(SmaltiError, match="^mask "):
        open_mask(torch.ones(8, 8).as_subclass(OnApple), (64, 64), (8, 8))
