"""The pipeline: what comes out, by which seeds, and what it refuses."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from folders import write_tiny_model
from PIL import Image
from safetensors.torch import load_file
from tiny import GOLDEN, golden_expectations

import smalti
from smalti import SmaltiError
from smalti.common.images import paint_unknown, save_gif, save_image
from smalti.generation.settings import GenerationSettings

PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pipe(folder):
    return smalti.load(folder)


def test_output_types(pipe):
    results = {
        kind: pipe(PROMPT, seed=3, num_inference_steps=4, output_type=kind)
        for kind in ("pil", "np", "pt", "tokens")
    }
    tokens = results["tokens"].tokens
    assert tokens.shape == (1, 8, 8) and tokens.dtype == torch.int64
    assert all(torch.equal(result.tokens, tokens) for result in results.values())
    assert results["tokens"].images is tokens or torch.equal(results["tokens"].images, tokens)
    picture = np.asarray(results["pil"].images[0])
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert np.array_equal(pipe.components.decode(tokens)[0].permute(1, 2, 0).numpy(), picture)
    floats = results["np"].images
    assert floats.shape == (1, 64, 64, 3) and floats.dtype == np.float32
    assert np.array_equal((floats[0] * 255).round(), picture)
    assert np.array_equal(results["pt"].images.permute(0, 2, 3, 1).numpy(), floats)
    # Ordinary tensors, not ones of inference mode.
    results["pt"].images.requires_grad_()
    tokens.add_(0)


def test_result_reports_everything(pipe):
    settings = pipe.settings.replaced(revision="threshold:0.05")
    result = pipe([PROMPT, "a star"], seed=5, num_images_per_prompt=2, settings=settings)
    assert result.prompts == [PROMPT, PROMPT, "a star", "a star"]
    assert result.seeds == [5, 6, 5, 6]
    assert len(result.images) == 4 and result.tokens.shape == (4, 8, 8)
    assert list(result.seconds) == ["prompt", "denoise", "decode", "total"]
    assert result.seconds["total"] == pytest.approx(sum(list(result.seconds.values())[:3]))
    assert all(taken > 0 for taken in result.seconds.values())
    assert len(result.tokens_edited) == 4 and sum(result.tokens_edited) > 0
    assert result.tokens_remasked == [0] * 4 and result.passes == [16] * 4
    assert result.settings == settings and result.negative_prompts is None
    assert json.loads(json.dumps(result.settings.to_dict()))["height"] == 64


def test_a_picture_does_not_depend_on_its_batch(pipe):
    prompts = [PROMPT, "a star", "four yellow hearts on a slate background, please"]
    settings = pipe.settings.replaced(
        num_inference_steps=6, revision="threshold:0.1", order="confidence:temperature=0.5", temperature=1.3
    )
    options = dict(settings=settings, output_type="tokens")
    together = pipe(prompts, num_images_per_prompt=3, seed=11, **options)
    alone = [
        pipe(prompt, seed=seed, **options).tokens
        for prompt, seed in zip(together.prompts, together.seeds, strict=True)
    ]
    assert torch.equal(together.tokens, torch.cat(alone))
    assert len({tuple(grid.flatten().tolist()) for grid in together.tokens}) == 9
    reordered = pipe(prompts[::-1], seed=[13, 11, 12], **options)
    assert torch.equal(reordered.tokens[0], together.tokens[8])
    assert torch.equal(reordered.tokens[2], together.tokens[1])


def test_seeds_from_generators(pipe):
    def generator():
        return torch.Generator().manual_seed(9)

    result = pipe(PROMPT, generator=generator(), num_images_per_prompt=2, num_inference_steps=2)
    assert result.seeds[0] != result.seeds[1]
    again = pipe(PROMPT, seed=result.seeds, num_images_per_prompt=2, num_inference_steps=2)
    assert torch.equal(again.tokens, result.tokens)
    listed = pipe(
        PROMPT, generator=[generator(), generator()], num_images_per_prompt=2, num_inference_steps=2
    )
    assert listed.seeds == [result.seeds[0]] * 2
    # Without any of the two every call is a new one.
    assert pipe(PROMPT, num_inference_steps=1).seeds != pipe(PROMPT, num_inference_steps=1).seeds


def test_steps_and_callback(pipe):
    seen = []
    result = pipe(
        PROMPT,
        seed=1,
        num_inference_steps=4,
        callback_on_step_end=lambda caller, index, unknown, state: seen.append(
            (caller is pipe, index, unknown, state["step"].tokens)
        ),
    )
    assert [entry[:2] for entry in seen] == [(True, index) for index in range(4)]
    unknown = [entry[2] for entry in seen]
    assert unknown == sorted(unknown, reverse=True) and unknown[-1] == 0
    generation = pipe.start(PROMPT, pipe.settings.replaced(num_inference_steps=4), seed=1)
    steps = [next(generation), next(generation)]
    assert torch.equal(steps[1].tokens, seen[1][3])
    # What is left of the steps is taken by asking for the output.
    assert torch.equal(generation.output("tokens").tokens, result.tokens)


def test_frames(pipe):
    generation = pipe.start([PROMPT, "a star"], pipe.settings.replaced(num_inference_steps=3), seed=1)
    frames = pipe.frames(list(generation))
    pictures = generation.output().images
    assert [len(one) for one in frames] == [4, 4]
    assert [np.array_equal(one[-1], picture) for one, picture in zip(frames, pictures, strict=True)] == [
        True
    ] * 2
    assert len(np.unique(np.asarray(frames[0][0]).reshape(-1, 3), axis=0)) <= 3


def test_paint_unknown():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    unknown = np.zeros((4, 2), dtype=bool)
    unknown[1, 1] = unknown[3, 0] = True
    painted = paint_unknown(pixels, unknown)
    covered = unknown.repeat(8, axis=0).repeat(8, axis=1)
    assert np.array_equal(painted[~covered], pixels[~covered])
    assert not (painted[covered] == pixels[covered]).all(axis=-1).any()


def test_other_sizes(pipe):
    result = pipe(PROMPT, seed=0, height=32, width=96, num_inference_steps=2)
    assert result.tokens.shape == (1, 4, 12) and result.images[0].size == (96, 32)


def test_defaults_come_from_the_model(tmp_path):
    sampling = {"num_inference_steps": 2, "order": "draw", "guidance_interval": [0.0, 0.5], "height": 32}
    pipe = smalti.load(write_tiny_model(tmp_path / "m", sampling=sampling))
    expected = GenerationSettings(
        num_inference_steps=2, order="draw", guidance_interval=(0.0, 0.5), height=32, width=64
    )
    assert pipe.settings == expected
    assert pipe(PROMPT, seed=0).settings == expected
    write_tiny_model(tmp_path / "bad", sampling={"steps": 4})
    with pytest.raises(SmaltiError, match=r"sampling in the model's config.json: unknown setting 'steps'"):
        smalti.load(tmp_path / "bad")


@pytest.mark.parametrize("case", ["argmax_confident_8_cfg3_edit", "argmax_stratified_8_edit"])
def test_golden(case):
    common = golden_expectations()["common"]
    settings = golden_expectations()[case]
    confident = "confidence_policy" in settings
    pipe = smalti.load(GOLDEN)
    chosen = pipe.settings.replaced(
        num_inference_steps=common["n_steps"],
        guidance_scale=settings.get("guidance_scale", 0.0),
        revision=f"threshold:{settings['edit_threshold']}",
        budget=f"shift:{common['shift']}",
        order="confidence" if confident else "stratified",
        draw="argmax",
        final="release",
    )
    result = pipe(common["prompt"], settings=chosen, output_type="tokens")
    expected = load_file(GOLDEN / "expected.safetensors")[f"tokens_{case}"]
    assert torch.equal(result.tokens.flatten(1), expected.long())
    assert result.tokens_edited == [settings["total_edited"]]


BAD_ARGUMENTS = {
    "prompt": ["", "  \n", 3, None, [], ["a star", ""], ["a star", 3], {"a": 1}, "\ud800", "word " * 3000],
    "negative_prompt": [3, ["a star", "a heart"], [], np.zeros(0), np.zeros((2, 2), bool)],
    "num_inference_steps": [0, -1, 65, 2.5, "4", True],
    "guidance_scale": [-0.1, math.nan, math.inf, "3"],
    "height": [0, -64, 60, 8, 64.0, 10**6],
    "width": [0, 28, "64"],
    "num_images_per_prompt": [0, 1.5, 2**70],
    "seed": [-1, 2**63, 1.5, [1, 2], [], "0", [True]],
    "generator": [3, [torch.Generator(), torch.Generator()], [3]],
    "output_type": ["latent", None],
    "preset": ["best", 3],
}
BAD_SETTINGS = {
    "guidance_interval": [(0.5,), (-0.1, 1), (0, 1.1), (0.6, 0.5), "01", 0.5],
    "revision": ["mask", 3, "threshold:0", "threshold:1.5", "token_to_mask:share=2", "none:0.5"],
    "refinement": ["common", "rare:share=1.1", "rare:frequency=-1", "rare:steps=3"],
    "budget": ["sine", "shift:0", "shift:-1", "shift:inf", "adaptive:floor=0.5,ceiling=0.2", "cosine:2"],
    "order": [
        "raster",
        "confidence:temperature=-1",
        "history:window=0.5",
        "history:8,8",
        "draw:a=1",
    ],
    "draw": ["mode"],
    "temperature": [-1, math.inf],
    "temperature_schedule": ["cold", "shift:0"],
    "top_k": [-1, 2.5],
    "top_p": [0, 1.5, math.nan],
    "final": ["last"],
    "reuse": ["all"],
    "reuse_every": [0],
}


def cases(table):
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize("name, value", cases(BAD_ARGUMENTS))
def test_bad_arguments_are_named(pipe, name, value):
    with pytest.raises(SmaltiError, match=rf"\b{name}\b") as caught:
        pipe(**{"prompt": PROMPT, name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, value", cases(BAD_SETTINGS))
def test_bad_settings_are_named(name, value):
    with pytest.raises(SmaltiError, match=rf"^{name}\b") as caught:
        GenerationSettings().replaced(**{name: value})
    assert caught.value.argument == name and "\n" not in str(caught.value)
    assert caught.value.named("--x").startswith("--x")


def test_arguments_that_do_not_go_together(pipe):
    with pytest.raises(SmaltiError, match="seed and generator"):
        pipe(PROMPT, seed=0, generator=torch.Generator())
    with pytest.raises(SmaltiError, match="order.*square"):
        pipe(PROMPT, settings=pipe.settings.replaced(order="stratified"), width=96)
    with pytest.raises(SmaltiError, match="settings and preset must not both be given"):
        pipe(PROMPT, settings=pipe.settings, preset="fast")
    with pytest.raises(SmaltiError, match="negative_prompt needs guidance"):
        pipe(PROMPT, negative_prompt="a star", guidance_scale=0.0)


def test_negative_prompts(pipe):
    options = dict(seed=3, num_inference_steps=4, output_type="tokens")
    plain = pipe([PROMPT, "a star"], **options)
    assert torch.equal(pipe([PROMPT, "a star"], negative_prompt="", **options).tokens, plain.tokens)
    one = pipe([PROMPT, "a star"], negative_prompt="a heart", **options)
    assert one.negative_prompts == ["a heart", "a heart"] and not torch.equal(one.tokens, plain.tokens)
    listed = pipe([PROMPT, "a star"], negative_prompt=["a heart", "two rings"], **options)
    assert torch.equal(listed.tokens[0], one.tokens[0]) and not torch.equal(listed.tokens[1], one.tokens[1])
    alone = pipe("a star", negative_prompt="two rings", **options)
    assert torch.equal(alone.tokens[0], listed.tokens[1])


def test_a_preview_changes_no_token(pipe):
    settings = pipe.settings.replaced(num_inference_steps=4, order="halton")
    plain, shown = (pipe.start(PROMPT, settings, seed=1, preview=preview) for preview in (False, True))
    for step, other in zip(plain, shown, strict=True):
        assert torch.equal(step.tokens, other.tokens)
        assert bool((other.candidate < pipe.components.mask_code).all())
        pipe.components.decode(other.candidate)


def test_load_refuses(tmp_path, folder):
    for model in (tmp_path / "none", "nvidia/NL-Diffusion-Image", folder / "config.json", 3):
        with pytest.raises(SmaltiError, match=re.escape(str(model))):
            smalti.load(model)
    with pytest.raises(SmaltiError, match="holds neither model.safetensors"):
        smalti.load(tmp_path)
    for device in ("nonsense", "cuda:99", "meta", 3.5):
        with pytest.raises(SmaltiError, match="device"):
            smalti.load(folder, device=device)
    for dtype in ("int8", torch.int64, "float64", 3):
        with pytest.raises(SmaltiError, match="dtype"):
            smalti.load(folder, dtype=dtype)


def test_load_refuses_parts_that_do_not_fit(tmp_path):
    folder = write_tiny_model(tmp_path / "m", codebook_size=32)
    with pytest.raises(SmaltiError, match="32 codes, not 64"):
        smalti.load(folder)


def test_bfloat16(folder):
    pipe = smalti.load(folder, dtype="bfloat16")
    assert pipe.denoiser.head.dtype == torch.bfloat16
    assert pipe.image_tokenizer.quant_conv.weight.dtype == torch.float32
    assert pipe(PROMPT, seed=0, num_inference_steps=2).images[0].size == (64, 64)


def test_import_is_light():
    code = "import sys, smalti; smalti.SmaltiError; print('torch' in sys.modules, smalti.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", smalti.__version__]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        smalti.nothing  # noqa: B018


def test_png_text(tmp_path):
    path = tmp_path / "a.png"
    save_image(Image.new("RGB", (4, 4)), path, {"prompt": "ein roter Kreis, 赤い円", "seed": "3"})
    with Image.open(path) as image:
        assert image.text == {"prompt": "ein roter Kreis, 赤い円", "seed": "3"}


@pytest.mark.parametrize("interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", ["png", "gif"])
def test_interrupted_writing_keeps_the_old_file(tmp_path, monkeypatch, interruption, kind):
    path = tmp_path / f"old.{kind}"
    path.write_bytes(b"old")

    def save(self, target, *args, **options):
        if isinstance(target, io.BytesIO):
            target.write(b"half")
        else:
            with open(target, "wb") as file:
                file.write(b"half")
        raise interruption

    monkeypatch.setattr(Image.Image, "save", save)
    image = Image.new("RGB", (4, 4))
    with pytest.raises((SmaltiError, KeyboardInterrupt), match="No space left|^$"):
        save_image(image, path) if kind == "png" else save_gif([image, image], path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 72}, "image_size in the model's config.json: height must be a multiple of 16 pixels"),
        ({"image_size": 65536}, "image_size in the model's config.json: height and width must be at most"),
        (
            {"sampling": {"width": 10**9}},
            "sampling in the model's config.json: height and width must be at most",
        ),
    ],
)
def test_a_size_that_the_config_has_wrong_is_no_options_fault(tmp_path, changes, message):
    folder = write_tiny_model(tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(SmaltiError, match=message) as caught:
        smalti.load(folder)
    assert caught.value.argument is None
