"""Folders of quantized layers: the same layers as on the fly, without torchao, one tensor at a time."""

from __future__ import annotations

import builtins
import json
import shutil
import subprocess
import sys

import pytest
import torch
from adapters import write_adapter
from folders import write_tiny_model
from release_shape import CUT, CUT_VQ, write_release
from safetensors.torch import load_file, save_file

import smalti
import smalti.storage.quantizing
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.runtime.memory import ModelSize, need
from smalti.runtime.modes import choose, table
from smalti.storage.averaging import average_models
from smalti.storage.folder import load_denoiser, load_image_tokenizer
from smalti.storage.inspection import inspect
from smalti.storage.loading import load_outline
from smalti.storage.mapping import PackedEmbedding
from smalti.storage.merging import merge_model
from smalti.storage.quantizing import quantize_model

pytest.importorskip("torchao")
KINDS = ("int8", "int4", "fp8")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("base") / "m")


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    """A folder of each kind."""
    place = tmp_path_factory.mktemp("quantized")
    for kind in KINDS:
        quantize_model(base, kind, place / kind)
    return place


def tokens(pipe):
    return pipe(["a red circle", "two dogs"], seed=[0, 1], num_inference_steps=4, output_type="tokens").tokens


def fails(message, action):
    with pytest.raises(SmaltiError, match=message) as caught:
        action()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_those_made_on_the_fly(kind, base, folders):
    ours, theirs = load_denoiser(folders / kind), load_denoiser(base, quantize=kind)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    pipe, other = smalti.load(folders / kind), smalti.load(base, quantize=kind)
    assert torch.equal(tokens(pipe), tokens(other))
    assert str(pipe.components.mode) == str(other.components.mode) == f"{kind} layers in float32 arithmetic"
    # To ask for what the folder has already is no mistake.
    assert torch.equal(tokens(smalti.load(folders / kind, quantize=kind)), tokens(other))


@pytest.mark.parametrize("kind", KINDS)
def test_it_loads_without_torchao(kind, folders, monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name.startswith("torchao"):
            raise ImportError("No module named 'torchao'")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    smalti.load(folders / kind)
    fails("quantize needs torchao", lambda: quantize_model(folders / kind, "int8", folders / "x"))


def test_the_rest_is_as_it_was(base, folders):
    before, after = load_file(base / "model.safetensors"), load_file(folders / "int4" / "model.safetensors")
    same = [name for name in before if name in after]
    assert len(same) > 5 and all(torch.equal(before[name], after[name]) for name in same)
    assert not any(name.endswith("proj.weight") for name in same)
    assert {name.rpartition(".")[2] for name in after} == {"weight", "stored", "scale", "zero"}
    for name in ("tokenizer.json", "vq/config.json"):
        assert json.loads((base / name).read_text()) == json.loads((folders / "int4" / name).read_text())
    one, other = (load_image_tokenizer(place).state_dict() for place in (base, folders / "int4"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    config = json.loads((folders / "int4" / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "smalti", "layers": "int4", "group_size": 64}


@pytest.mark.parametrize("shard", [10**9, 20_000, 1])
def test_shards(shard, base, folders, tmp_path):
    quantize_model(base, "int4", tmp_path, max_shard_bytes=shard)
    assert (tmp_path / "model.safetensors").is_file() == (shard == 10**9)
    ours, theirs = load_denoiser(tmp_path).state_dict(), load_denoiser(folders / "int4").state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    report = inspect(tmp_path)
    assert report["quantized"]["layers"] == "int4"
    sizes = sum(path.stat().st_size for path in tmp_path.glob("model*.safetensors"))
    assert report["bytes"] == sizes


def test_groups_and_embeddings(base, tmp_path):
    quantize_model(base, "int4", tmp_path / "g", group=16, embeddings=True)
    denoiser = load_denoiser(tmp_path / "g")
    assert denoiser.layers[0].mlp.up_proj.scale.shape == (48, 2)
    plain = load_denoiser(base)
    ids = torch.tensor([[3, 1, 63], [0, 0, 65]])
    for name in ("embed_tokens", "gen_embedding"):
        ours, theirs = getattr(denoiser, name)(ids), getattr(plain, name)(ids)
        assert isinstance(getattr(denoiser, name), PackedEmbedding) and ours.shape == theirs.shape
        assert 1e-4 < (ours - theirs).norm() / theirs.norm() < 0.01
        mapped = load_denoiser(tmp_path / "g", mapped=(name,))
        assert torch.equal(getattr(mapped, name)(ids), ours)
    tokens(smalti.load(tmp_path / "g"))


def test_adapters_fit_the_folder_as_they_fit_the_base(base, folders, tmp_path):
    adapter = write_adapter(tmp_path / "a", base, "dora")
    ours = smalti.load(folders / "int8", adapter=adapter)
    assert torch.equal(tokens(ours), tokens(smalti.load(base, quantize="int8", adapter=adapter)))
    fails(
        "is for another base than",
        lambda: smalti.load(write_tiny_model(tmp_path / "o", seed=5), adapter=adapter),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_info_counts_what_the_folder_holds(kind, base, folders, capsys):
    report = inspect(folders / kind)
    assert report["parameters"] == inspect(base)["parameters"]
    assert report["dtypes"][kind] == sum(
        layer.in_features * layer.out_features
        for layer in load_denoiser(base).layers.modules()
        if isinstance(layer, torch.nn.Linear)
    )
    size = ModelSize.of(report)
    assert [row["precision"] for row in table(size)] == [kind]
    mode = choose(size, 10**10, dtype="bfloat16", streams=True)
    assert mode.quantize == kind and mode.offload is None
    held = sum(
        one.nbytes
        for name, one in load_denoiser(folders / kind).named_parameters()
        if name.startswith("layers.")
    )
    assert need(size, mode).weights["layers"] == pytest.approx(held, rel=0.01)
    assert main(["info", str(folders / kind)]) == 0 and kind in capsys.readouterr().out
    assert load_outline(folders / kind).denoiser.head.is_meta


def test_the_command(base, tmp_path, capsys):
    assert main(["quantize", str(base), "int8", "-o", str(tmp_path / "m"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layers"] == "int8" and report["bytes"] > 0
    assert main(["quantize", str(base), "int3", "-o", str(tmp_path / "n")]) == 2
    assert main(["quantize", str(base), "int4", "--group", "48", "-o", str(tmp_path / "n")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" must")[0] for line in lines] == ["smalti: KIND", "smalti: --group"]
    assert not (tmp_path / "n").exists()


class TestBroken:
    def rewrite(self, folders, tmp_path, kind, change):
        shutil.copytree(folders / kind, tmp_path / "m", dirs_exist_ok=True)
        tensors = load_file(tmp_path / "m" / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / "m" / "model.safetensors")
        return tmp_path / "m"

    NAME = "encoder.layers.0.mlp.up_proj"

    @pytest.mark.parametrize("kind", KINDS)
    def test_missing_parts(self, kind, folders, tmp_path):
        folder = self.rewrite(folders, tmp_path, kind, lambda tensors: tensors.pop(self.NAME + ".scale"))
        for load in (smalti.load, inspect, load_outline):
            fails(r"lacks encoder.layers.0.mlp.up_proj.scale", lambda load=load: load(folder))

    def test_shapes_that_do_not_fit(self, folders, tmp_path):
        def change(part, value):
            return lambda tensors: tensors.update({f"{self.NAME}.{part}": value})

        cases = [
            ("int8", "scale", torch.ones(47), r"scale must be \(48,\), not \(47,\)"),
            ("int8", "scale", torch.ones(48, dtype=torch.int64), "scale must be floating-point, not I64"),
            (
                "int8",
                "stored",
                torch.ones(48, 31, dtype=torch.int8),
                r"must be \(48, 32\) by config.json, not",
            ),
            (
                "int8",
                "stored",
                torch.ones(48, 32, dtype=torch.int32),
                "must be a matrix of I8, F8_E4M3, U8, not I32",
            ),
            ("int4", "scale", torch.ones(48, 3), "must be 48 rows of equal groups of 32"),
            ("int4", "zero", torch.ones(48, 2, dtype=torch.uint8), "zero must be U8"),
        ]
        for kind, part, value, message in cases:
            folder = self.rewrite(folders, tmp_path, kind, change(part, value))
            fails(message, lambda folder=folder: smalti.load(folder))

    def test_what_needs_floats(self, base, folders, tmp_path):
        small = folders / "int4"
        adapter = write_adapter(tmp_path / "a", base, "lora")
        for action, what in (
            (lambda: average_models(small, base, tmp_path / "x"), "averaging"),
            (lambda: average_models(base, small, tmp_path / "x"), "averaging"),
            (lambda: merge_model(small, adapter, tmp_path / "x"), "merging"),
            (lambda: quantize_model(small, "int8", tmp_path / "x"), "smalti quantize"),
        ):
            fails(f"stores its layers as int4, and {what} needs float weights", action)
        fails(
            "quantize must be left out for .*, whose layers are stored as int4",
            lambda: smalti.load(small, quantize="fp8"),
        )
        assert not (tmp_path / "x").exists()

    def test_targets_and_room(self, base, tmp_path, monkeypatch):
        for folder in (base, base / "vq"):
            fails(
                "folder must not be the model's", lambda folder=folder: quantize_model(base, "int8", folder)
            )
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("", (), {"free": 10})())
        fails("must have room for", lambda: quantize_model(base, "int8", tmp_path / "x"))
        assert not (tmp_path / "x").exists()

    def test_a_failure_half_way_leaves_no_model(self, base, tmp_path, monkeypatch):
        calls = []
        real = smalti.storage.quantizing.quantized_linear

        def full(*arguments):
            calls.append(1)
            if len(calls) == 5:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        monkeypatch.setattr(smalti.storage.quantizing, "quantized_linear", full)
        fails("cannot write .*No space left on device", lambda: quantize_model(base, "int8", tmp_path / "x"))
        assert not list((tmp_path / "x").glob("model*")) and not (tmp_path / "x" / "config.json").exists()
        fails("holds neither model.safetensors nor", lambda: smalti.load(tmp_path / "x"))
        calls.clear()
        held = write_tiny_model(tmp_path / "held", seed=5)
        before = {path: path.read_bytes() for path in held.rglob("*") if path.is_file()}
        fails("cannot write .*No space left on device", lambda: quantize_model(base, "int8", held))
        assert {path: path.read_bytes() for path in held.rglob("*") if path.is_file()} == before

    def test_arguments_of_other_types(self, base, tmp_path):
        for name, wrong in (("folder", None), ("embeddings", "no"), ("max_shard_bytes", "5GB")):
            options = {"folder": tmp_path / "x", name: wrong}
            fails(f"{name} must be", lambda options=options: quantize_model(base, "int8", **options))
        assert not (tmp_path / "x").exists()

    def test_a_matrix_in_both_forms(self, folders, tmp_path):
        folder = self.rewrite(
            folders, tmp_path, "int8", lambda found: found.update({self.NAME + ".weight": torch.ones(48, 32)})
        )
        fails("up_proj.weight, not both", lambda: inspect(folder))

    def test_weights_that_are_not_finite(self, base, tmp_path):
        shutil.copytree(base, tmp_path / "m")
        tensors = load_file(base / "model.safetensors")
        tensors[self.NAME + ".weight"][3, 5] = float("nan")
        save_file(tensors, tmp_path / "m" / "model.safetensors")
        fails(
            "weights must be finite, but .*up_proj",
            lambda: quantize_model(tmp_path / "m", "int8", tmp_path / "x"),
        )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_a_tensor(tmp_path):
    """Writing and reading take the largest tensor and some megabytes, however large the model is."""
    config = {
        **CUT,
        "hidden_size": 1024,
        "d_model_gen": 1024,
        "intermediate_size": 8192,
        "num_hidden_layers": 10,
    }
    folder = write_release(tmp_path / "m", config=config, vq=CUT_VQ, vision_tower=(8, 0))
    code = """
import sys
from pathlib import Path
import torch
from smalti.runtime.quantization import import_torchao
from smalti.storage.folder import load_denoiser
from smalti.storage.quantizing import quantize_model
def peak(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) * 1024
import_torchao()
before = peak("VmRSS")
quantize_model(sys.argv[1], "int4", sys.argv[2])
print(peak("VmHWM") - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, folder, tmp_path / "x"], capture_output=True, text=True, check=True
    )
    whole = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert whole > 5.5e8 and int(done.stdout) < 4.5e8
