"""Smalti's pipelines for diffusers, with the real diffusers: the same tokens as Smalti's own pipeline."""

from __future__ import annotations

import builtins
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import write_adapter
from folders import write_tiny_model
from PIL import Image

import smalti
from smalti.errors import SmaltiError
from smalti.model.learned import LearnedWord
from smalti.storage.words import save_word

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that diffusers imports

from smalti.evaluation.suites.scenes.prompts import scene_prompts  # noqa: E402
from smalti.integrations.diffusers import SmaltiInpaintPipeline, SmaltiPipeline  # noqa: E402

PROMPT = "a red circle"


def seeded(*seeds):
    found = [torch.Generator().manual_seed(seed) for seed in seeds]
    return found if len(found) > 1 else found[0]


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("base") / "m")


@pytest.fixture(scope="module")
def ours(base):
    return smalti.load(base)


@pytest.fixture
def pipe(base):
    return quiet(SmaltiPipeline.from_pretrained(base))


@pytest.fixture
def inpaint(pipe):
    return quiet(SmaltiInpaintPipeline.from_pipe(pipe))


def fails(message, action):
    with pytest.raises(SmaltiError, match=message) as caught:
        action()
    assert isinstance(caught.value, ValueError), "what diffusers raises for wrong input"
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "count"), [("fast", 12), ("balanced", 4), ("quality", 2)])
def test_tokens_of_the_bundled_model(preset, count, tmp_path):
    theirs, ours = quiet(SmaltiPipeline.from_pretrained("scenes")), smalti.load("scenes")
    prompts = [prompt["prompt"] for prompt in scene_prompts(4)][:count]
    found = theirs(prompts, preset=preset, generator=seeded(*range(count)), output_type="latent")
    expected = ours(prompts, preset=preset, generator=seeded(*range(count)), output_type="tokens")
    assert torch.equal(found.latents, expected.tokens) and found.seeds == expected.seeds
    theirs.save_pretrained(tmp_path / "m")
    again = quiet(SmaltiPipeline.from_pretrained(tmp_path / "m"))
    found = again(prompts[:2], preset=preset, generator=seeded(*range(2)), output_type="latent")
    assert torch.equal(found.latents, expected.tokens[:2])


class TestDrawing:
    def test_guidance_is_diffusers(self, pipe, ours):
        for theirs, scale in ((3.0, 2.0), (1.0, 0.0), (0.0, 0.0)):
            found = pipe(PROMPT, guidance_scale=theirs, num_inference_steps=4, generator=seeded(1))
            expected = ours(PROMPT, guidance_scale=scale, num_inference_steps=4, generator=seeded(1))
            assert torch.equal(found.latents, expected.tokens)
            assert pipe.guidance_scale == scale + 1 and pipe.do_classifier_free_guidance == (scale > 0)

    def test_forms_of_images(self, pipe):
        options = dict(num_inference_steps=2, num_images_per_prompt=2)
        pil = pipe(PROMPT, generator=seeded(1, 2), **options)
        assert [image.size for image in pil.images] == [(64, 64)] * 2
        values = pipe(PROMPT, generator=seeded(1, 2), output_type="np", **options).images
        assert values.shape == (2, 64, 64, 3) and values.dtype == np.float32
        assert np.array_equal((values[0] * 255).round().astype(np.uint8), np.asarray(pil.images[0]))
        tensors = pipe(PROMPT, generator=seeded(1, 2), output_type="pt", **options).images
        assert torch.equal(tensors, torch.from_numpy(values).permute(0, 3, 1, 2))
        (latents,) = pipe(PROMPT, generator=seeded(1, 2), output_type="latent", return_dict=False, **options)
        assert torch.equal(latents, pil.latents)

    def test_latents_to_start_from(self, pipe, ours):
        full = ours(PROMPT, seed=0, num_inference_steps=4).tokens
        start = full.clone()
        start[:, :4] = ours.components.mask_code
        settings = pipe._settings(None, None, None, 4, (None, None)).replaced(revision="none")
        found = pipe(PROMPT, latents=start, settings=settings, output_type="latent").latents
        assert torch.equal(found[:, 4:], full[:, 4:]) and not (found == ours.components.mask_code).any()

    def test_wrong_input(self, pipe, inpaint):
        for scale in ("much", float("nan"), -1, 1e9):
            fails("guidance_scale must be .* 10001", lambda scale=scale: pipe(PROMPT, guidance_scale=scale))
        fails("guidance_scale above 1", lambda: pipe(PROMPT, negative_prompt="dogs", guidance_scale=1.0))
        fails("settings must be", lambda: pipe(PROMPT, settings={"order": "halton"}))
        fails(
            "output_type must be 'pil' or 'np' or 'pt' or 'latent'",
            lambda: pipe(PROMPT, output_type="tokens"),
        )
        fails("callback_on_step_end must be a function", lambda: pipe(PROMPT, callback_on_step_end=3))
        for names in (["latent"], "latents", 3):
            fails(
                "callback_on_step_end_tensor_inputs must be a list of latents",
                lambda names=names: pipe(PROMPT, callback_on_step_end_tensor_inputs=names),
            )
        fails("latents must be a tensor", lambda: pipe(PROMPT, latents=[1]))
        fails("latents must be", lambda: pipe(PROMPT, latents=torch.zeros(1, 4, 4)))
        fails("generator must be", lambda: pipe(PROMPT, generator=seeded(1, 2)))
        fails("height must be a multiple", lambda: pipe(PROMPT, height=65))
        fails("dtype must be that of from_pretrained", lambda: pipe.to(torch.float16))
        for device in ("nowhere", 2.5):
            fails("device must be", lambda device=device: pipe.to(device))
        fails(
            "dtype and torch_dtype",
            lambda: SmaltiPipeline.from_pretrained(dtype="float32", torch_dtype="float32"),
        )
        fails("model must be a folder that exists", lambda: SmaltiPipeline.from_pretrained("./nowhere"))
        image = Image.new("RGB", (64, 64))
        fails(
            "mask_image must not cover",
            lambda: inpaint(PROMPT, image=image, mask_image=Image.new("L", (64, 64), 255)),
        )
        fails("strength must be", lambda: inpaint(PROMPT, image=image, mask_image=image, strength=0))
        fails(
            r"image must be \(1 or 3", lambda: inpaint(PROMPT, image=torch.zeros(2, 64, 64), mask_image=image)
        )
        fails("mask_image must be one", lambda: inpaint(PROMPT, image=image, mask_image=None))
        fails("image must be one", lambda: inpaint(PROMPT, image=[image, image], mask_image=image))
        nan = torch.full((1, 64, 64), torch.nan)
        fails("mask_image must hold finite", lambda: inpaint(PROMPT, image=image, mask_image=nan))


class TestCallbacks:
    def test_it_sees_every_step(self, pipe):
        seen = []

        def look(owner, index, unknown, tensors):
            seen.append(
                (owner is pipe, index, unknown, {name: tuple(one.shape) for name, one in tensors.items()})
            )

        names = ["latents", "candidates", "revealed"]
        options = dict(num_inference_steps=3, generator=seeded(1))
        drawn = pipe(PROMPT, callback_on_step_end=look, callback_on_step_end_tensor_inputs=names, **options)
        assert [(owner, index) for owner, index, *_ in seen] == [(True, 0), (True, 1), (True, 2)]
        assert seen[-1][2] == 0.0 and seen[0][3] == dict.fromkeys(names, (1, 8, 8))
        options["generator"] = seeded(1)
        assert torch.equal(drawn.latents, pipe(PROMPT, **options).latents), "looking changes nothing"

    def test_returned_latents_replace_those_of_the_loop(self, pipe):
        mask = pipe.parts.mask_code
        settings = pipe._settings(None, None, None, 4, (None, None)).replaced(revision="none")

        def write(owner, index, unknown, tensors):
            if index == 1:
                tensors["latents"][:, :2] = 7
                tensors["latents"][:, 6:] = mask
            return tensors

        drawn = pipe(PROMPT, settings=settings, generator=seeded(1), callback_on_step_end=write).latents
        assert bool((drawn[:, :2] == 7).all()) and not bool((drawn == mask).any())

        def spoil(owner, index, unknown, tensors):
            return {"latents": torch.full_like(tensors["latents"], mask)}

        fails(
            "latents must have no mask", lambda: pipe(PROMPT, settings=settings, callback_on_step_end=spoil)
        )
        for wrong, message in ((3, "must return a dictionary"), ({"latents": 3}, "latents must be")):
            fails(
                message,
                lambda wrong=wrong: pipe(
                    PROMPT, callback_on_step_end=lambda *_: wrong, num_inference_steps=2
                ),
            )

    def test_an_interrupt_stops_after_the_step(self, pipe):
        passes = []
        handle = pipe.denoiser.register_forward_hook(lambda *_: passes.append(1))

        def stop(owner, index, unknown, tensors):
            owner._interrupt = index == 1

        options = dict(num_inference_steps=8, guidance_scale=1.0, callback_on_step_end=stop)
        drawn = pipe(PROMPT, generator=seeded(1), output_type="latent", **options).latents
        assert len(passes) == 2 and bool((drawn == pipe.parts.mask_code).any()) and pipe.interrupt
        passes.clear()
        drawn = pipe(PROMPT, generator=seeded(1), **options)
        assert len(passes) == 3, "one more pass fills what is unknown"
        assert drawn.images[0].size == (64, 64) and not bool((drawn.latents == pipe.parts.mask_code).any())
        handle.remove()
        assert not bool((pipe(PROMPT, num_inference_steps=2).latents == pipe.parts.mask_code).any())
        assert not pipe.interrupt


class TestInpainting:
    def mask(self):
        mask = Image.new("L", (64, 64))
        mask.paste(255, (0, 0, 32, 64))
        return mask

    def test_tokens_are_those_of_an_edit(self, inpaint, ours):
        image = ours(PROMPT, seed=0, num_inference_steps=4).images[0]
        options = dict(num_inference_steps=4, num_images_per_prompt=2)
        found = inpaint("two dogs", image=image, mask_image=self.mask(), generator=seeded(1, 2), **options)
        expected = ours.edit(image, "two dogs", mask=self.mask(), generator=seeded(1, 2), **options)
        assert torch.equal(found.latents, expected.tokens)
        assert all(
            np.array_equal(one, other) for one, other in zip(found.images, expected.images, strict=True)
        )

    def test_strength_and_tensors(self, inpaint):
        image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        before = inpaint.parts.encode((image * 255).round().to(torch.uint8))
        mask = torch.from_numpy(np.asarray(self.mask())[None] / 255.0)
        changed = []
        for strength in (0.25, 1.0):
            drawn = inpaint(
                PROMPT, image=image, mask_image=mask, strength=strength, output_type="pt", generator=seeded(3)
            )
            assert drawn.images.shape == (1, 3, 64, 64)
            assert torch.equal(drawn.latents[..., 4:], before[..., 4:])
            changed.append(int((drawn.latents != before).sum()))
        assert changed[0] <= 8 < changed[1]

    def test_callbacks_change_the_masked_part_alone(self, inpaint):
        image = Image.new("RGB", (64, 64), "red")
        before = inpaint.parts.encode(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
        mask = inpaint.parts.mask_code

        def write(owner, index, unknown, tensors):
            tensors["latents"][..., :4] = 7
            tensors["latents"][..., 4:] = mask
            return tensors

        options = dict(num_inference_steps=2, callback_on_step_end=write)
        found = inpaint(PROMPT, image=image, mask_image=self.mask(), **options).latents
        assert torch.equal(found[..., 4:], before[..., 4:]) and bool((found[..., :4] == 7).all())

    def test_every_form_of_an_image_gives_the_same(self, inpaint):
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        mask = np.asarray(self.mask())
        images = [Image.fromarray(pixels), [Image.fromarray(pixels)], pixels / 255, pixels[None] / 255]
        masks = [self.mask(), mask == 255, mask / 255, torch.from_numpy(mask == 255)]
        found = [
            inpaint(PROMPT, image=image, mask_image=one, num_inference_steps=2, generator=seeded(1)).latents
            for image, one in zip(images, masks, strict=True)
        ]
        assert all(torch.equal(one, found[0]) for one in found)


class TestParts:
    def test_saving(self, pipe, base, tmp_path):
        pipe.save_pretrained(tmp_path / "m")
        index = json.loads((tmp_path / "m" / "model_index.json").read_text())
        assert index["_class_name"] == "SmaltiPipeline" and index["denoiser"][1] == "Denoiser"
        options = dict(seed=0, num_inference_steps=2, output_type="tokens")
        assert torch.equal(
            smalti.load(tmp_path / "m")(PROMPT, **options).tokens, smalti.load(base)(PROMPT, **options).tokens
        )
        fails("push_to_hub must be False", lambda: pipe.save_pretrained(tmp_path / "n", push_to_hub=True))
        bare = SmaltiPipeline(pipe.denoiser, pipe.image_tokenizer, pipe.text_tokenizer)
        fails("no tokenizer.json to save", lambda: bare.save_pretrained(tmp_path / "n"))
        fails("save_directory must be", lambda: pipe.save_pretrained(None))
        fails("max_shard_size must be", lambda: pipe.save_pretrained(tmp_path / "n", max_shard_size="5GB"))
        assert set(pipe.components) == {"denoiser", "image_tokenizer", "text_tokenizer"}

    def test_offloading(self, pipe, base):
        expected = pipe(PROMPT, num_inference_steps=2, generator=seeded(1)).latents
        if not torch.cuda.is_available():
            fails("device must be given: there is no GPU", pipe.enable_model_cpu_offload)
        pipe.enable_model_cpu_offload(device="cpu")
        moved = []
        for name in ("denoiser", "image_tokenizer"):
            part = getattr(pipe, name)
            part.to = lambda place, name=name: moved.append(name)
        assert torch.equal(pipe(PROMPT, num_inference_steps=2, generator=seeded(1)).latents, expected)
        assert moved == ["denoiser", "denoiser", "image_tokenizer", "image_tokenizer"]

    def test_progress(self, base, capfd):
        pipe = SmaltiPipeline.from_pretrained(base)
        pipe.set_progress_bar_config(desc="drawing", file=sys.stderr)
        pipe(PROMPT, num_inference_steps=3)
        assert "drawing: 100%" in capfd.readouterr().err

    def test_adapters(self, pipe, base, tmp_path):
        folders = [write_adapter(tmp_path / name, base, "lora", seed=seed) for seed, name in enumerate("ab")]
        options = dict(num_inference_steps=2, output_type="latent")

        def drawn():
            return pipe(PROMPT, generator=seeded(1), **options).latents

        plain = drawn()
        pipe.load_lora_weights(folders[0])
        pipe.load_lora_weights(folders[1], adapter_name="second")
        assert pipe.get_list_adapters() == pipe.get_active_adapters() == ["a", "second"]
        pipe.set_adapters(["second"], [0.5])
        assert pipe.get_active_adapters() == ["second"]
        expected = smalti.load(base, adapter=folders[1], adapter_scale=0.5)
        found = expected(PROMPT, generator=seeded(1), num_inference_steps=2, output_type="tokens").tokens
        assert torch.equal(drawn(), found) and not torch.equal(drawn(), plain)
        pipe.disable_lora()
        assert torch.equal(drawn(), plain)
        fails("adapter_names must be among a, second, not", lambda: pipe.set_adapters("c"))
        fails("adapter_weights must have 1 numbers", lambda: pipe.set_adapters("a", [1, 2]))
        fails("adapter_name must be new", lambda: pipe.load_lora_weights(folders[0]))
        for folder in ("nowhere", None):
            fails("adapter must be a folder", lambda folder=folder: pipe.load_lora_weights(folder))
        fails("adapter_name must be", lambda: pipe.load_lora_weights(folders[0], adapter_name=3))
        fails("adapter_names must be a name", lambda: pipe.set_adapters(None))
        fails("with adapters cannot be saved", lambda: pipe.save_pretrained(tmp_path / "saved"))
        assert not (tmp_path / "saved").exists()
        pipe.unload_lora_weights()
        assert pipe.get_list_adapters() == [] and torch.equal(drawn(), plain)
        other = write_adapter(tmp_path / "o", write_tiny_model(tmp_path / "other", seed=5), "lora")
        fails("is for another base than", lambda: pipe.load_lora_weights(other))

    def test_learned_words(self, base, tmp_path):
        pipe = SmaltiPipeline.from_pretrained(base)
        vectors = torch.randn(2, pipe.denoiser.config.hidden_size, generator=seeded(2))
        file = tmp_path / "thing.safetensors"
        save_word(LearnedWord("<thing>", vectors), file, base=base)
        pipe.load_textual_inversion(file)
        options = dict(generator=seeded(1), num_inference_steps=2)
        expected = smalti.load(base, word=file)("a <thing>", **options, output_type="tokens").tokens
        options["generator"] = seeded(1)
        assert torch.equal(pipe("a <thing>", **options, output_type="latent").latents, expected)
        shared = SmaltiInpaintPipeline.from_pipe(pipe)
        assert shared.text_tokenizer.encode("<thing>") == pipe.text_tokenizer.encode("<thing>")
        fails("must have a name that is free", lambda: pipe.load_textual_inversion(file))
        fails("word must be a file that exists", lambda: pipe.load_textual_inversion("nowhere"))
        fails("with learned words cannot be saved", lambda: pipe.save_pretrained(tmp_path / "saved"))
        other = SmaltiPipeline.from_pretrained(write_tiny_model(tmp_path / "other", seed=5))
        fails("is for another base than", lambda: other.load_textual_inversion(file))


@pytest.mark.slow
def test_the_documented_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "diffusers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        exec(compile(block, "docs/diffusers.md", "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} == {"circle.png", "star.png", "saved"}
    assert bool((names["out"].latents >= 0).all())


def test_without_diffusers(monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name.partition(".")[0] == "diffusers":
            raise ImportError("No module named 'diffusers'")
        return real(name, *arguments, **options)

    for name in [name for name in sys.modules if name.startswith("smalti.integrations.diffusers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SmaltiError, match=r"needs diffusers: pip install 'smalti\[diffusers\]'"):
        __import__("smalti.integrations.diffusers")
