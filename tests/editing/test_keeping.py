"""What an edit keeps: with a blend the pixels two tokens away, without one every pixel outside of the selection."""

from __future__ import annotations

import numpy as np
import pytest
from folders import write_tiny_model
from PIL import Image

import smalti
from smalti.cli.main import main

PROMPT = "a red circle left of a blue square"
SIDE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pipe(folder):
    return smalti.load(folder)


def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [3, 4])
def test_without_a_blend_every_pixel_outside_stays(pipe, channels):
    image, mask = picture(64, 64, channels), np.zeros((64, 64), dtype=bool)
    mask[16:30, 24:40] = True
    edit = {"mask": mask, "seed": 0, "num_inference_steps": 2}
    result = pipe.edit(image, PROMPT, blend=False, **edit)
    inside = result.region.numpy().repeat(SIDE, axis=0).repeat(SIDE, axis=1)
    edited = np.array(result.image)
    assert np.array_equal(edited[~inside], image[~inside])
    decoded = pipe.components.decode(result.tokens)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(edited[inside][:, :3], decoded[inside])
    if channels == 4:
        assert (edited[inside][:, 3] == 255).all()
    blended = np.array(pipe.edit(image, PROMPT, **edit).image)
    assert not np.array_equal(blended[~inside], image[~inside])


@pytest.mark.parametrize("size", [(128, 128), (100, 60), (33, 64), (200, 131)])
def test_images_of_other_sizes_without_a_blend(pipe, size):
    image, mask = picture(*size), np.zeros(size, dtype=bool)
    mask[: size[0] // 2, : size[1] // 2] = True
    result = pipe.edit(image, PROMPT, blend=False, mask=mask, seed=0, num_inference_steps=2)
    changed = (np.array(result.image) != image).any(axis=2)
    # A token's side in pixels of the image bounds how far beyond the mask the selection reaches.
    side = int(np.ceil(SIDE * max(size) / 64)) + 1
    assert changed[: size[0] // 2, : size[1] // 2].any()
    assert not changed[size[0] // 2 + side :].any() and not changed[:, size[1] // 2 + side :].any()


def test_a_grown_canvas_without_a_blend(pipe):
    image = picture(64, 64)
    result = pipe.edit(image, PROMPT, grow=(16, 0, 16, 0), blend=False, seed=0, num_inference_steps=2)
    assert result.image.size == (96, 64) and np.array_equal(np.array(result.image)[:, 16:80], image)


def test_the_option(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image, mask = picture(64, 64), np.zeros((64, 64), dtype=np.uint8)
    mask[16:32, 16:32] = 255
    Image.fromarray(image).save("a.png")
    Image.fromarray(mask).save("m.png")
    line = [
        "inpaint",
        "a.png",
        PROMPT,
        "--mask",
        "m.png",
        "--seed",
        "0",
        "--steps",
        "2",
        "--model",
        str(folder),
    ]
    assert main([*line, "-o", "b.png", "--no-blend"]) == 0 and main([*line, "-o", "c.png"]) == 0
    kept, blended = (np.array(Image.open(name)) for name in ("b.png", "c.png"))
    assert np.array_equal(kept[mask == 0], image[mask == 0])
    assert not np.array_equal(blended[mask == 0], image[mask == 0])
