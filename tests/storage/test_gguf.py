"""GGUF files in the place of a model's weights."""

from __future__ import annotations

import builtins
import shutil
import struct

import numpy as np
import pytest
import torch
from adapters import write_adapter
from folders import write_tiny_model
from gguf_files import write_gguf

import smalti
from smalti.errors import SmaltiError
from smalti.runtime.blocks import BlockLinear
from smalti.storage.averaging import average_models
from smalti.storage.folder import load_denoiser, save_denoiser
from smalti.storage.inspection import inspect
from smalti.storage.mapping import PackedEmbedding

gguf = pytest.importorskip("gguf")

WIDE = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1}
KINDS = {
    "q_proj.weight": "Q4_K",
    "k_proj.weight": "Q5_K",
    "v_proj.weight": "Q6_K",
    "o_proj.weight": "Q8_0",
    "gate_proj.weight": "Q4_0",
    "up_proj.weight": "BF16",
    "down_proj.weight": "F16",
    "embed_tokens.weight": "Q8_0",
    "gen_embedding.weight": "Q6_K",
    "gen_predictor.weight": "Q8_0",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("base") / "m", **WIDE)


def with_gguf(folder, base, kinds=KINDS, **options):
    shutil.copytree(base, folder)
    expected = write_gguf(folder / "model.gguf", base, kinds, **options)
    (folder / "model.safetensors").unlink()
    return folder, expected


def float_twin(folder, base, expected):
    """The same model in floats, as gguf unpacks it."""
    shutil.copytree(base, folder)
    denoiser = load_denoiser(base)
    with torch.no_grad():
        for name, weight in denoiser.named_parameters():
            weight.copy_(expected[name])
    save_denoiser(denoiser, folder)
    return folder


def tokens(pipe):
    return pipe(["a red circle", "two dogs"], seed=[0, 1], num_inference_steps=4, output_type="tokens").tokens


@pytest.mark.parametrize("prefix", ["encoder.", "", "model.diffusion_model."])
def test_it_draws_as_the_floats_that_it_stands_for(prefix, base, tmp_path):
    folder, expected = with_gguf(tmp_path / "g", base, prefix=prefix)
    pipe, twin = smalti.load(folder), smalti.load(float_twin(tmp_path / "f", base, expected))
    assert torch.equal(tokens(pipe), tokens(twin))
    assert str(pipe.components.mode) == "gguf layers in float32 arithmetic"
    layer = pipe.denoiser.layers[0]
    assert isinstance(layer.self_attn.q_proj, BlockLinear) and layer.self_attn.q_proj.kind == "Q4_K"
    assert isinstance(layer.mlp.up_proj, torch.nn.Linear)
    assert torch.equal(tokens(smalti.load(folder / "model.gguf")), tokens(twin))


@pytest.mark.parametrize("mapped", [(), ("embed_tokens",), ("embed_tokens", "gen_embedding")])
def test_embeddings_in_blocks(mapped, base, tmp_path):
    folder, expected = with_gguf(tmp_path / "g", base)
    denoiser = load_denoiser(folder, mapped=mapped, dtype=torch.float32)
    ids = torch.tensor([[3, 1, 63], [0, 0, 65]])
    for name in ("embed_tokens", "gen_embedding"):
        table = getattr(denoiser, name)
        assert isinstance(table, PackedEmbedding) and table.mapped == (name in mapped)
        assert torch.equal(table(ids), expected[f"{name}.weight"][ids])
    assert torch.equal(denoiser.head, expected["gen_predictor.weight"])


def test_info_outline_and_adapters(base, tmp_path):
    folder, _ = with_gguf(tmp_path / "g", base)
    report = inspect(folder)
    assert {"Q4_K", "Q8_0", "F32", "BF16"} <= report["dtypes"].keys()
    assert report["quantized"]["layers"] == "gguf" and report["files"] == ["model.gguf"]
    assert report["parameters"] == inspect(base)["parameters"]
    adapter = write_adapter(tmp_path / "a", base, "dora")
    adapted = smalti.load(folder, adapter=adapter)
    assert not torch.equal(tokens(adapted), tokens(smalti.load(folder)))
    from smalti.storage.loading import load_outline

    assert load_outline(folder).denoiser.config.hidden_size == 256


def fails(folder, message, load=smalti.load):
    with pytest.raises(SmaltiError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


class TestBroken:
    def write(self, path, **tensors):
        writer = gguf.GGUFWriter(path, "some")
        for name, (raw, kind) in tensors.items():
            writer.add_tensor(name, raw, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    @pytest.fixture
    def folder(self, base, tmp_path):
        shutil.copytree(base, tmp_path / "m")
        (tmp_path / "m" / "model.safetensors").unlink()
        return tmp_path / "m"

    def test_a_type_that_is_not_read(self, folder):
        raw = np.zeros((4, 84), dtype=np.uint8)
        kind = gguf.GGMLQuantizationType.Q2_K
        self.write(folder / "a.gguf", **{"layers.0.mlp.up_proj.weight": (raw, kind)})
        fails(folder, "a.gguf: .*up_proj.weight.* must be of type F32, F16, BF16, Q8_0, .*, not Q2_K")
        # What the model does not use may be of any type; then tensors are missing.
        (folder / "a.gguf").unlink()
        self.write(folder / "a.gguf", **{"encoder.vision_tower.weight": (raw, kind)})
        fails(folder, "lacks tensors")

    def test_another_shape(self, base, tmp_path):
        folder, _ = with_gguf(tmp_path / "g", base)
        other = write_tiny_model(tmp_path / "other", **{**WIDE, "intermediate_size": 512})
        shutil.copy(other / "config.json", folder)
        fails(folder, r"proj.weight must be \(.*512.*\) by config.json, not \(")

    def test_names_of_a_text_model(self, folder):
        raw = np.zeros((4, 4), dtype=np.float32)
        self.write(folder / "a.gguf", **{"blk.0.attn_q.weight": (raw, gguf.GGMLQuantizationType.F32)})
        fails(folder, "names of a text model")

    @pytest.mark.parametrize("keep", [0, 3, 20, 100, 3000, -200])
    def test_truncated(self, keep, base, tmp_path):
        folder, _ = with_gguf(tmp_path / "g", base)
        path = folder / "model.gguf"
        path.write_bytes(path.read_bytes()[:keep])
        fails(folder, "model.gguf is truncated")

    def test_a_type_that_the_reader_does_not_know(self, folder):
        tensor = struct.pack("<Q", 1) + b"a" + struct.pack("<IQIQ", 1, 4, 77, 0)
        (folder / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor + b"\0" * 64)
        fails(folder, "a.gguf: tensors must be of type F32, .*Q6_K, not number 77")

    def test_lists_in_lists_without_end(self, folder):
        nested = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 2000
        header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a"
        (folder / "a.gguf").write_bytes(header + nested)
        fails(folder, "a.gguf is truncated or not a GGUF file")

    def test_several_files_and_files_alone(self, base, tmp_path):
        folder, _ = with_gguf(tmp_path / "g", base)
        shutil.copy(folder / "model.gguf", folder / "other.gguf")
        fails(folder, "must hold one GGUF file, not 2")
        fails(folder / "model.gguf", "must be the only weights in its folder, which also holds other.gguf")
        (tmp_path / "alone").mkdir()
        shutil.copy(folder / "model.gguf", tmp_path / "alone")
        fails(tmp_path / "alone" / "model.gguf", "needs config.json, tokenizer.json")

    def test_what_needs_floats(self, base, tmp_path):
        folder, _ = with_gguf(tmp_path / "g", base)
        fails(
            folder,
            "stores its layers as gguf, and averaging needs float weights",
            lambda one: average_models(one, base, tmp_path / "x"),
        )
        fails(
            folder,
            "quantize must be left out for .*stored as gguf",
            lambda one: smalti.load(one, quantize="int8"),
        )

    def test_without_gguf(self, base, tmp_path, monkeypatch):
        folder, _ = with_gguf(tmp_path / "g", base)
        real = builtins.__import__

        def missing(name, *arguments, **options):
            if name == "gguf":
                raise ImportError("No module named 'gguf'")
            return real(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", missing)
        fails(folder, r"GGUF files need gguf: pip install 'smalti\[gguf\]'")
