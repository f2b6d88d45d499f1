"""Values of a wrong kind or size: each is named, in one short line, before work starts."""

from __future__ import annotations

import io
import time
import tracemalloc

import numpy as np
import pytest
import torch
from folders import write_tiny_model
from PIL import Image

import smalti
from smalti.cli.main import main
from smalti.editing.edit import start_edit
from smalti.editing.selection import Selection
from smalti.errors import SmaltiError
from smalti.generation.drawing import start

PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pipe(folder):
    return smalti.load(folder)


@pytest.fixture(scope="module")
def scene(pipe):
    return pipe(PROMPT, seed=0, num_inference_steps=1)


@pytest.mark.parametrize("settings", [5, {}, "fast", [], {"order": "halton"}])
def test_settings_of_a_wrong_type(pipe, scene, settings):
    calls = [
        lambda: pipe(PROMPT, settings=settings),
        lambda: pipe.start(PROMPT, settings),
        lambda: start(pipe.components, PROMPT, settings),
        lambda: pipe.edit(scene, "a star", settings=settings),
        lambda: start_edit(pipe.components, scene, "a star", Selection(), settings),
    ]
    for call in calls:
        with pytest.raises(SmaltiError, match="^settings must be a GenerationSettings"):
            call()
    with pytest.raises(SmaltiError, match="^selection must be a Selection"):
        start_edit(pipe.components, scene, "a star", settings, pipe.settings)


@pytest.mark.parametrize("callback", [5, "print", []])
def test_a_callback_that_cannot_be_called(pipe, scene, callback):
    for call in (pipe, lambda prompt, **rest: pipe.edit(scene, prompt, **rest)):
        with pytest.raises(SmaltiError, match="^callback_on_step_end must be a function"):
            call("a star", callback_on_step_end=callback)


@pytest.mark.parametrize("value", [10**400, 1e308, 1e5])
def test_guidance_beyond_reason(pipe, capsys, value):
    with pytest.raises(
        SmaltiError, match="^guidance_scale must be a finite number of at least 0 and at most 10000"
    ):
        pipe(PROMPT, guidance_scale=value)
    if isinstance(value, float):
        assert main(["generate", PROMPT, "-o", "a.png", "--guidance", str(value)]) == 2
        assert "--guidance must be" in capsys.readouterr().err


def test_the_least_top_p_keeps_one_token(pipe):
    drawn = [
        pipe(PROMPT, seed=0, num_inference_steps=3, settings=pipe.settings.replaced(**change)).tokens
        for change in ({"top_p": 1e-320}, {"top_p": 1e-9}, {"top_k": 1})
    ]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_numbers_of_numpy(pipe):
    plain = pipe(PROMPT, seed=3, num_inference_steps=2, guidance_scale=1.5, num_images_per_prompt=2)
    other = pipe(
        PROMPT,
        seed=np.int64(3),
        num_inference_steps=np.array(2),
        guidance_scale=np.float64(1.5),
        height=np.int32(64),
        num_images_per_prompt=np.int8(2),
    )
    assert torch.equal(plain.tokens, other.tokens) and plain.settings == other.settings
    assert [type(value) for value in other.settings.to_dict().values()] == [
        type(value) for value in plain.settings.to_dict().values()
    ]


def test_an_edit_takes_numbers_of_numpy(pipe, scene):
    plain = pipe.edit(scene, "a star", strength=0.5, seed=1, num_inference_steps=2)
    other = pipe.edit(scene, "a star", strength=np.float64(0.5), seed=np.int64(1), num_inference_steps=2)
    assert torch.equal(plain.tokens, other.tokens)
    grown = pipe.edit(scene, PROMPT, grow=(np.int64(16), 0, np.array(16), 0), seed=1, num_inference_steps=2)
    assert grown.image.size == (96, 64)


def test_files_in_memory(pipe):
    image, mask = io.BytesIO(), io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image, "PNG")
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(mask, "PNG")
    edit = {"seed": 0, "num_inference_steps": 1}
    result = pipe.edit(image, "a star", mask=mask, **edit)
    assert torch.equal(result.tokens, pipe.edit(pixels, "a star", mask=np.eye(64, dtype=bool), **edit).tokens)
    for broken in (io.BytesIO(b""), io.BytesIO(b"nothing"), io.StringIO("nothing")):
        with pytest.raises(SmaltiError, match="^image: its content is not a readable image"):
            pipe.edit(broken, "a star", **edit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_mask_with_a_gradient(pipe, scene, dtype):
    mask = torch.ones(8, 8, dtype=dtype, requires_grad=True)
    with pytest.raises(SmaltiError, match="^mask as an array must be uint8"):
        pipe.edit(scene, "a star", mask=mask)
    with pytest.raises(SmaltiError, match="^mask must be as large as the image"):
        pipe.edit(scene, "a star", mask=torch.ones(3, 3, dtype=torch.bool))


GROWTHS = [(100_000_000, 0, 0, 0), (0, 10**20, 0, 0), (0, 0, 0, 900_000), (10**400, 0, 0, 0)]


@pytest.mark.parametrize("grow", GROWTHS)
def test_a_canvas_has_limits_before_work(pipe, scene, grow):
    tracemalloc.start()
    try:
        with pytest.raises(SmaltiError, match="^grow must ") as caught:
            pipe.edit(scene, PROMPT, grow=grow)
        assert tracemalloc.get_traced_memory()[1] < 50e6 and len(str(caught.value)) < 300
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("option", ["--left", "--top"])
@pytest.mark.parametrize("pixels", ["100000000", "99999999999999999999"])
def test_the_command_limits_its_canvas(folder, tmp_path, capsys, option, pixels):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    line = ["outpaint", str(tmp_path / "a.png"), PROMPT, option, pixels, "-o", str(tmp_path / "b.png")]
    started = time.perf_counter()
    assert main([*line, "--model", str(folder)]) == 2
    error = capsys.readouterr().err
    named = "--left, --top, --right and --bottom" if int(pixels) < 2**63 else option
    assert f"{named} must " in error and time.perf_counter() - started < 10


@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "source_prompt"])
def test_a_prompt_of_megabytes_is_refused_at_once(pipe, scene, name):
    text = "red " * 2_000_000
    started = time.perf_counter()
    with pytest.raises(
        SmaltiError, match=rf"^{name} must be at most 2048 text tokens long, not 8000000 char"
    ):
        pipe.edit(scene, **{"prompt": "a star", name: text})
    if name != "source_prompt":
        with pytest.raises(
            SmaltiError, match=rf"^{name} must be at most 2048 text tokens long, not 8000000 char"
        ):
            pipe(**{"prompt": "a star", name: text})
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("option", ["--source-prompt", "--negative-prompt"])
def test_blank_prompts_are_named(folder, tmp_path, capsys, option):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    line = ["edit", str(tmp_path / "a.png"), PROMPT, option, "  ", "-o", str(tmp_path / "b.png")]
    assert main([*line, "--model", str(folder)]) == 2
    assert f"smalti: {option} must not be empty" in capsys.readouterr().err


def test_a_model_without_a_name(monkeypatch, folder, capsys):
    monkeypatch.chdir(folder)
    with pytest.raises(SmaltiError, match="model must be a folder that exists, a bundled model"):
        smalti.load("")
    for line in (
        ["info", ""],
        ["generate", PROMPT, "-o", "a.png", "--model", ""],
        ["groups", "", "--groups", "2"],
    ):
        assert main(line) == 2
        assert "model must be a folder that exists" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"sampling": {"height": 60}}, {"sampling": {"width": 10**6 * 16}}])
def test_a_wrong_size_in_the_model_is_the_models(tmp_path, capsys, changes):
    broken = write_tiny_model(tmp_path / "broken", **changes)
    with pytest.raises(SmaltiError, match="^sampling in the model's config.json: "):
        smalti.load(broken)
    assert main(["generate", PROMPT, "-o", "a.png", "--model", str(broken)]) == 2
    assert "config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(8, 8, dtype=torch.bool, device="meta"),
        torch.eye(8).to_sparse(),
        torch.eye(8, dtype=torch.bool).to_sparse(),
    ],
    ids=["meta", "sparse", "sparse bool"],
)
def test_tensors_without_their_numbers_are_no_masks(folder, mask):
    with pytest.raises(SmaltiError, match="mask must be a dense tensor of bool or uint8, not "):
        smalti.load(folder).edit(Image.new("RGB", (64, 64)), "a cat", mask=mask)


def test_files_that_cannot_be_read_are_no_images(folder, tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (64, 64)).save(path)
    pipe = smalti.load(folder)
    with (
        open(path, encoding="utf-8") as text,
        pytest.raises(SmaltiError, match="image: its content is not a"),
    ):
        pipe.edit(text, "a cat", strength=0.5)
    with open(path, "rb") as closed:
        pass
    with pytest.raises(SmaltiError, match="image: its content is not a readable image: I/O operation"):
        pipe.edit(closed, "a cat", strength=0.5)


@pytest.mark.parametrize("name", ["compile", "local_files_only"])
@pytest.mark.parametrize("value", ["no", 1, None])
def test_flags_of_loading_are_true_or_false(folder, name, value):
    with pytest.raises(SmaltiError, match=f"{name} must be True or False, not ") as caught:
        smalti.load(folder, **{name: value})
    assert caught.value.argument == name


def test_a_blank_adapter_is_no_folder(folder):
    with pytest.raises(SmaltiError, match="adapter must be a folder that exists, not ''"):
        smalti.load(folder, adapter="")
