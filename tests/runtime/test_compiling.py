"""Compiled layers: the same tokens, with everything else that a model can be loaded and drawn with."""

from __future__ import annotations

import functools
import os
import shutil

import pytest
import torch
from adapters import write_adapter
from folders import write_tiny_model
from tiny import generators, tiny_denoiser, tiny_prompts
from torch import nn
from typer.testing import CliRunner

import smalti
from smalti.cli.app import app
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.model.lora import set_strength
from smalti.runtime import compiling
from smalti.runtime.compiling import check_compiler, compile_layers
from smalti.runtime.streaming import StreamedLayers
from smalti.sampling.guidance import Guidance
from smalti.sampling.reuse import CellReuse, NoReuse, PromptReuse
from smalti.sampling.sampler import Sampler, sample
from smalti.storage.adapters import load_adapters, read_adapter
from smalti.storage.folder import load_denoiser, save_denoiser

TEXTS = ["a red circle", "two blue squares and a dog", "a red square"]
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="needs a C++ compiler"
)


@pytest.fixture(autouse=True)
def forget():
    """What was compiled for other tests."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("compiled") / "tiny")


@pytest.mark.slow
@needs_compiler
def test_the_same_tokens(folder):
    pipe, plain = smalti.load(folder, compile=True), smalti.load(folder)
    torch._dynamo.utils.counters.clear()  # of the trial
    assert str(pipe.components.mode) == "float32, compiled" and plain.components.mode.compiled is False
    names = [name for name, _ in plain.denoiser.named_parameters()]
    assert [name for name, _ in pipe.denoiser.named_parameters()] == names
    chosen = plain.settings.replaced(num_inference_steps=4, guidance_scale=2.0, revision="threshold:0.3")
    settings = dict(seed=0, settings=chosen, output_type="tokens")
    expected = plain(TEXTS, **settings).tokens
    assert torch.equal(pipe(TEXTS, **settings).tokens, expected)
    assert compiled_graphs() == 1, "layers, lengths and batch sizes share one"
    assert torch.equal(pipe(TEXTS[1], **settings).tokens, plain(TEXTS[1], **settings).tokens)
    assert compiled_graphs() == 1


def compiled_graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def without_code(monkeypatch):
    """PyTorch traces the layers as ever, but makes no code of what it finds, which takes the most time."""
    traced = functools.partialmethod(nn.Module.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(nn.Module, "compile", traced)


@pytest.mark.parametrize(
    ("variant", "reuse"),
    [
        ({}, PromptReuse(2)),
        (dict(conditioning="cross_attention"), NoReuse()),
        (dict(image_positions="axial"), NoReuse()),
        ({}, CellReuse(3, near=0)),
        (dict(conditioning="cross_attention"), CellReuse(3, near=0)),
    ],
    ids=str,
)
def test_what_it_goes_with(variant, reuse, monkeypatch):
    """With guidance in two passes, on and off from step to step, and with parts from an earlier step."""
    without_code(monkeypatch)
    denoiser = tiny_denoiser(**variant)
    prompt = tiny_prompts(denoiser, TEXTS[::2])
    sampler = Sampler(
        steps=6, guidance=Guidance(2.0, (0.3, 0.6)), argmax=True, reuse=reuse, guidance_batched=False
    )

    def tokens():
        steps = sample(denoiser, prompt, grid=(4, 4), sampler=sampler, generators=generators(1, 2))
        return list(steps)[-1].tokens

    expected = tokens()
    compile_layers(denoiser)
    assert torch.equal(tokens(), expected)
    assert compiled_graphs() > 0


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_streamed_and_quantized_layers(tmp_path, quantize, monkeypatch):
    pytest.importorskip("torchao")
    without_code(monkeypatch)
    save_denoiser(tiny_denoiser(num_hidden_layers=3), tmp_path)
    plain, compiled = load_denoiser(tmp_path, quantize=quantize), load_denoiser(tmp_path, quantize=quantize)
    compiled.layers = StreamedLayers(compiled.layers, "cpu")
    compile_layers(compiled)
    prompt = tiny_prompts(plain, ["a red circle"])
    tokens = torch.full((1, 4, 4), plain.config.mask_code)
    with torch.inference_mode():
        expected = plain(tokens, prompt)
        for _ in range(2):
            assert torch.equal(compiled(tokens, prompt), expected)
    assert compiled_graphs() == 1


class Replayed:
    """In place of a GPU's recording: computes again, into the same place, from the same inputs."""

    made = 0

    def __init__(self, device):
        pass

    def __call__(self, run):
        Replayed.made += 1
        first = run()
        with torch.inference_mode(False):
            result = torch.full_like(first, torch.nan)
        return result, lambda: result.copy_(run())


@pytest.fixture
def recorded(monkeypatch):
    """A denoiser whose layers are recorded so, and a plain one."""
    monkeypatch.setattr(compiling, "_Capture", Replayed)
    monkeypatch.setattr(Replayed, "made", 0)
    denoiser = tiny_denoiser()
    denoiser.run_layers = compiling.Recorded(denoiser.run_layers, torch.device("cpu"))
    return denoiser, tiny_denoiser()


@torch.inference_mode()
def test_recordings_are_made_once_and_results_stay(recorded):
    denoiser, plain = recorded
    first, second = (torch.randint(0, 64, (2, 4, 4)) for _ in range(2))
    prompts = [tiny_prompts(plain, texts) for texts in (TEXTS[::2], TEXTS[:2], ["a cat", "a dog"])]
    for _ in range(2):
        for prompt in prompts:
            results = [denoiser(grid, prompt) for grid in (first, second)]
            for grid, result in zip((first, second), results, strict=True):
                assert torch.equal(result, plain(grid, prompt))
    # One for each length and mask.
    assert Replayed.made == 3


def test_recordings_are_used_in_any_mode_but_with_gradients(recorded):
    denoiser, plain = recorded
    prompt, grid = tiny_prompts(plain, ["a cat"]), torch.zeros(1, 4, 4, dtype=torch.int64)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(denoiser(grid, prompt), plain(grid, prompt))
    assert Replayed.made == 1
    assert denoiser(grid, prompt).requires_grad and Replayed.made == 1


@torch.inference_mode()
def test_only_the_latest_recordings_are_kept(recorded, monkeypatch):
    denoiser, plain = recorded
    monkeypatch.setattr(compiling, "_RECORDINGS", 2)
    prompts = {rows: tiny_prompts(plain, ["a cat"], grid=(rows, 4)) for rows in (2, 4, 6)}
    made = []
    for rows in (2, 4, 2, 6, 2, 4):
        grid = torch.zeros(1, rows, 4, dtype=torch.int64)
        assert torch.equal(denoiser(grid, prompts[rows]), plain(grid, prompts[rows]))
        made.append(Replayed.made)
    assert made == [1, 2, 2, 3, 3, 4]


def test_without_a_compiler(folder, tmp_path, monkeypatch, capsys):
    import torch._inductor.config

    read = []
    monkeypatch.setattr("smalti.storage.loading.load_denoiser", lambda *_, **__: read.append(1))
    line = ["generate", "a cat", "-o", str(tmp_path / "a.png"), "--model", str(folder), "--compile"]
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        assert main(line) == 2
    error = capsys.readouterr().err
    assert error.startswith("smalti: compile=True needs a C++ compiler") and error.count("\n") == 1
    assert "no-such-compiler" in error and not read and not (tmp_path / "a.png").exists()


def test_a_gpu_that_cannot_convert_fp8(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (8, 6))
    with pytest.raises(SmaltiError, match="capability 8.9 or later, not 8.6"):
        check_compiler(torch.device("cuda"), "fp8")


@pytest.mark.parametrize("command", ["generate", "evaluate scenes"])
def test_it_is_an_option(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert "--compile" in result.output and "needs a C++ compiler" in result.output


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("offload", [None, "layers"])
@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_on_a_gpu(tmp_path, quantize, offload):
    if quantize:
        pytest.importorskip("torchao")
    save_denoiser(tiny_denoiser(num_hidden_layers=5, hidden_size=256, intermediate_size=512), tmp_path)
    options = dict(device="cuda", dtype=torch.float32, quantize=quantize, offload=offload)
    plain, compiled = load_denoiser(tmp_path, **options), load_denoiser(tmp_path, **options)
    compile_layers(compiled)
    prompts = [tiny_prompts(plain, texts).to("cuda") for texts in (TEXTS[:1], TEXTS[::2], TEXTS[1:2])]
    grids = torch.randint(0, 64, (2, 1, 4, 4), device="cuda")
    with torch.inference_mode():
        for _ in range(3):
            for prompt in prompts:
                results = [compiled(grid, prompt) for grid in grids]
                for grid, result in zip(grids, results, strict=True):
                    torch.testing.assert_close(result, plain(grid, prompt), rtol=1e-3, atol=1e-3)


def test_layers_with_adapters(tmp_path, monkeypatch):
    without_code(monkeypatch)
    base = write_tiny_model(tmp_path / "m", downsample=True)
    write_adapter(tmp_path / "a", base, "dora")
    plain, compiled = (load_denoiser(base) for _ in range(2))
    for denoiser in (plain, compiled):
        load_adapters(denoiser, base, [read_adapter(tmp_path / "a")], [1.0])
    compile_layers(compiled)
    prompt = tiny_prompts(plain, ["a red circle"])
    tokens = torch.full((1, 4, 4), plain.config.mask_code)
    with torch.inference_mode():
        first = plain(tokens, prompt)
        torch.testing.assert_close(compiled(tokens, prompt), first)
        for denoiser in (plain, compiled):
            set_strength(denoiser, "0", 0.5)
        torch.testing.assert_close(compiled(tokens, prompt), plain(tokens, prompt))
        assert not torch.equal(plain(tokens, prompt), first)
    assert compiled_graphs() == 1, "another strength compiles nothing"
