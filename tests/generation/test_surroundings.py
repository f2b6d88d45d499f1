"""What a caller has switched on in PyTorch changes nothing, and broken weights are errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from folders import write_tiny_model

import smalti
from smalti.common.devices import find_device
from smalti.errors import SmaltiError
from smalti.pipeline import Pipeline
from smalti.storage.averaging import average_models
from smalti.storage.folder import load_image_tokenizer, save_image_tokenizer

PROMPT = "a red circle left of a blue square"
IMAGE = np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def results(pipe: Pipeline) -> list[torch.Tensor]:
    settings = pipe.settings.replaced(num_inference_steps=4)
    every = settings.replaced(
        order="history:temperature=0.5", revision="token_to_mask:0.3", top_p=0.9, refinement="rare:share=0.25"
    )
    drawn = [
        pipe(PROMPT, seed=0, settings=one) for one in (settings, every, settings.replaced(order="halton"))
    ]
    edited = [
        pipe.edit(IMAGE, PROMPT, source_prompt="a star", seed=0, settings=settings),
        pipe.edit(IMAGE, PROMPT, strength=0.3, seed=0, settings=settings),
    ]
    pixels = [torch.from_numpy(np.array(result.images[0])) for result in (*drawn, *edited)]
    return [*(result.tokens for result in (*drawn, *edited)), *pixels, edited[0].region]


@pytest.fixture(scope="module")
def expected(folder):
    return results(smalti.load(folder))


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_autocast_changes_nothing(folder, expected):
    pipe = smalti.load(folder)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(results(pipe), expected)
        assert same(results(smalti.load(folder)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_changes_nothing(folder, expected, dtype):
    pipe = smalti.load(folder)
    torch.set_default_dtype(dtype)
    try:
        assert same(results(pipe), expected)
        assert same(results(smalti.load(folder)), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_default_device_changes_nothing(folder, expected):
    pipe = smalti.load(folder)
    # The one device that is always there beside the CPU. Tensors without a device would have no numbers on it.
    with torch.device("meta"):
        assert same(results(pipe), expected)
        assert same(results(smalti.load(folder)), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["decoder.conv_out.bias", "encoder.conv_out.bias"])
def test_weights_that_are_not_finite(folder, tmp_path, value, part):
    broken = tmp_path / "broken"
    write_tiny_model(broken)
    tokenizer = load_image_tokenizer(broken / "vq")
    with torch.no_grad():
        tokenizer.get_parameter(part)[0] = value
    save_image_tokenizer(tokenizer, broken / "vq")
    pipe = smalti.load(broken)
    with pytest.raises(SmaltiError, match="the image tokenizer's output is not finite"):
        if part.startswith("decoder"):
            pipe(PROMPT, seed=0, num_inference_steps=1)
        else:
            pipe.edit(IMAGE, PROMPT, seed=0, strength=0.5, num_inference_steps=1)
    with pytest.raises(SmaltiError, match=f"weights must be finite, but {part} of the image tokenizer"):
        average_models(broken, folder, tmp_path / "average")
    assert not (tmp_path / "average").exists()


def test_an_average_of_weights_that_are_not_finite(folder, tmp_path):
    broken = smalti.load(folder)
    with torch.no_grad():
        broken.denoiser.gen_embedding.weight[0, 0] = float("nan")
    from smalti.storage.folder import save_denoiser

    write_tiny_model(tmp_path / "broken")
    save_denoiser(broken.denoiser, tmp_path / "broken")
    with pytest.raises(SmaltiError, match="weights must be finite, but gen_embedding.weight of"):
        average_models(folder, tmp_path / "broken", tmp_path / "average")


DEVICES = (
    "cuda:99 cuda:-1 cuda:x ipu mkldnn opengl opencl ideep hip ve fpga maia xla lazy vulkan meta hpu mtia"
)
MAC = [] if torch.backends.mps.is_available() else ["mps"]
ODD = ["privateuseone", "", "toaster", "x" * 5000, "cpu:99999999999999999999", None, 3.5]


@pytest.mark.parametrize("name", [*DEVICES.split(), *MAC, *ODD], ids=lambda name: str(name)[:12])
def test_every_device_that_is_not_here_is_one_short_line(name):
    with pytest.raises(SmaltiError, match="^device must be one that") as caught:
        find_device(name)
    message = str(caught.value)
    assert len(message) < 300 and "\n" not in message and str(name)[:12] in message
