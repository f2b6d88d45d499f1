"""Folders of the release's shape: what is read of them, how much memory it takes, and what is said of broken ones."""

from __future__ import annotations

import ctypes
import json
import mmap
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from release_shape import CUT, CUT_VQ, write_holes, write_release
from safetensors.torch import save_file
from tiny import GOLDEN, tiny_denoiser

import smalti
import smalti.storage.mapping
from smalti.errors import SmaltiError
from smalti.runtime.memory import ModelSize
from smalti.storage.folder import load_denoiser, load_image_tokenizer, save_denoiser
from smalti.storage.headers import read_headers
from smalti.storage.inspection import inspect
from smalti.storage.mapping import MappedEmbedding, map_tensor, read_tensor


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """The release's own size, 25.7 GB of nothing."""
    return write_release(tmp_path_factory.mktemp("release") / "model")


@pytest.fixture
def cut(tmp_path):
    """The same in small, with an unused tensor that is larger than all the others."""
    return write_release(
        tmp_path / "cut", config=CUT, vq=CUT_VQ, vision_tower=(100_000_000, 0), shard_bytes=20_000_000
    )


class TestTrueSize:
    def test_it_is_the_releases(self, release):
        report = inspect(release)
        assert 25.6e9 < report["bytes"] < 25.8e9 and len(report["files"]) >= 6
        assert sum(path.stat().st_blocks for path in release.rglob("*")) * 512 < 1_000_000
        assert report["config"]["codebook_size"] == 131072
        everything = report["parameters"]["total"] + report["parameters"]["unused"]
        assert round(everything / 1e9, 1) == 11.9

    def test_parts_are_those_of_the_description(self, release):
        size = ModelSize.of(inspect(release))
        billions = {
            name: round(getattr(size, name) / 1e9, 2)
            for name in (
                "layers",
                "text_embedding",
                "image_embedding",
                "head",
                "compression",
                "image_tokenizer",
            )
        }
        assert billions == {
            "layers": 7.42,
            "text_embedding": 0.54,
            "image_embedding": 0.54,
            "head": 0.54,
            "compression": 0.13,
            "image_tokenizer": 0.46,
        }

    def test_headers_alone_load_it_to_the_meta_device(self, release, monkeypatch):
        def never(*arguments, **options):
            raise AssertionError("weights were read")

        monkeypatch.setattr(smalti.storage.mapping, "map_tensor", never)
        denoiser = load_denoiser(release, device="meta", dtype=torch.bfloat16)
        assert denoiser.head.is_meta and denoiser.head.shape == (131072, 4096)
        assert load_image_tokenizer(release, device="meta").quantize.embedding.weight.shape == (131072, 256)

    def test_a_mapped_table_costs_nothing(self, release):
        entry = read_headers(release)["encoder.embed_tokens.weight"]
        table = MappedEmbedding(entry, torch.float32)
        assert table.weight.shape == (132101, 4096) and table.weight.dtype == torch.bfloat16
        rows = table(torch.tensor([[0, 132100]]))
        assert rows.shape == (1, 2, 4096) and rows.dtype == torch.float32 and not rows.any()


def resident(path: Path) -> list[bool]:
    """Which pages of a file the system holds in memory, those that anybody read among them."""
    library = ctypes.CDLL(None, use_errno=True)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        pages = -(-len(view) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        start = ctypes.c_char.from_buffer(view)
        address = ctypes.c_void_p(ctypes.addressof(start))
        assert library.mincore(address, ctypes.c_size_t(len(view)), found) == 0
        del start
        return [bool(value & 1) for value in found]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages are in memory")
def test_bytes_of_unused_tensors_are_not_touched(cut):
    headers = read_headers(cut)
    assert not any(any(resident(path)[32:]) for path in cut.glob("*.safetensors"))
    pipe = smalti.load(cut)
    assert pipe.denoiser.config.num_hidden_layers == 2
    tower = headers["encoder.vision_tower.weight"]
    assert tower.size == 200_000_000
    pages = resident(tower.path)
    # The system reads on a little beyond what it is asked for.
    inside = pages[tower.offset // mmap.PAGESIZE + 2048 : (tower.offset + tower.size) // mmap.PAGESIZE - 2048]
    assert len(inside) > 40_000 and not any(inside)
    head = headers["encoder.gen_predictor.weight"]
    touched = resident(head.path)[head.offset // mmap.PAGESIZE : (head.offset + head.size) // mmap.PAGESIZE]
    assert all(touched), "what is needed was read, so that the check above means something"


def test_only_needed_tensors_are_asked_for(cut, monkeypatch):
    names = {(entry.path, entry.offset): name for name, entry in read_headers(cut).items()}
    names |= {(entry.path, entry.offset): "vq" for entry in read_headers(cut / "emu3_vqvae").values()}
    asked = set()

    def spy(entry, *arguments, **options):
        asked.add(names[entry.path, entry.offset])
        return map_tensor(entry, *arguments, **options)

    monkeypatch.setattr(smalti.storage.mapping, "map_tensor", spy)
    pipe = smalti.load(cut)
    assert asked == {"encoder." + name for name in pipe.denoiser.state_dict()} | {"vq"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_memory_beyond_the_weights(tmp_path, dtype):
    """Peak memory, mapped pages included, is the weights and a chunk: not a file, not a second copy of a tensor."""
    config = {**CUT, "hidden_size": 512, "d_model_gen": 512, "vocab_size": 132101}
    folder = write_release(
        tmp_path / "m", config=config, vq={**CUT_VQ, "codebook_size": 131072}, vision_tower=(10**8, 0)
    )
    code = f"""
import smalti, torch, sys
from pathlib import Path
import smalti.storage.loading
def peak(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) * 1024
before = peak("VmRSS")
pipe = smalti.load(sys.argv[1], dtype={dtype!r})
parts = (pipe.denoiser, pipe.image_tokenizer)
held = sum(w.nbytes for part in parts for w in part.parameters() if w is not pipe.denoiser.embed_tokens.weight)
print(peak("VmHWM") - before - held, held, type(pipe.denoiser.embed_tokens).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    extra, held, kind = done.stdout.split()
    assert kind == "MappedEmbedding" and int(held) > 2.5e8
    assert int(extra) < 1.6e8


class TestMapping:
    def test_windows_and_copies_are_the_tensor(self, tmp_path, monkeypatch):
        monkeypatch.setattr(smalti.storage.mapping, "_CHUNK_BYTES", 1000)
        values = torch.randn(37, 129, dtype=torch.float64)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            save_file({"first": torch.zeros(3), "weight": values.to(dtype)}, tmp_path / "model.safetensors")
            entry = read_headers(tmp_path)["weight"]
            assert torch.equal(map_tensor(entry).view(37, 129), values.to(dtype))
            assert torch.equal(map_tensor(entry, 200, 7), values.to(dtype).flatten()[200:207])
            for wanted in (torch.float32, torch.bfloat16):
                assert torch.equal(read_tensor(entry, "cpu", wanted), values.to(dtype).to(wanted))

    def test_scalars_empties_and_odd_places(self, tmp_path):
        tensors = {"a": torch.tensor(1.5), "b": torch.zeros(0, 3), "c": torch.arange(3.0)}
        save_file(tensors, tmp_path / "model.safetensors")
        raw = (tmp_path / "model.safetensors").read_bytes()
        length = int.from_bytes(raw[:8], "little")
        # A header whose length is no multiple of anything is legal.
        moved = (length + 3).to_bytes(8, "little") + raw[8 : 8 + length] + b"   " + raw[8 + length :]
        for content in (raw, moved):
            (tmp_path / "model.safetensors").write_bytes(content)
            for name, entry in read_headers(tmp_path).items():
                assert torch.equal(read_tensor(entry, "cpu", torch.float32), tensors[name])

    def test_a_file_that_shrinks_before_it_is_read(self, tmp_path):
        save_file({"weight": torch.zeros(10000)}, tmp_path / "model.safetensors")
        entry = read_headers(tmp_path)["weight"]
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(SmaltiError, match="model.safetensors cannot be read"):
            read_tensor(entry, "cpu", torch.float32)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize(
        "names", [("embed_tokens",), ("gen_embedding",), ("embed_tokens", "gen_embedding")]
    )
    def test_mapped_embeddings_change_nothing(self, tmp_path, names, dtype):
        save_denoiser(tiny_denoiser(), tmp_path / "a", dtype=torch.bfloat16)
        plain = load_denoiser(tmp_path / "a", dtype=dtype)
        mapped = load_denoiser(tmp_path / "a", dtype=dtype, mapped=names)
        ids = torch.tensor([[3, 1, 63], [0, 0, 65]])
        for name in names:
            one, other = getattr(plain, name), getattr(mapped, name)
            assert isinstance(other, MappedEmbedding) and not other.weight.requires_grad
            assert torch.equal(one(ids), other(ids)) and other(ids).dtype == dtype
        # Saved and loaded again it is the same model.
        save_denoiser(mapped, tmp_path / "b", dtype=torch.bfloat16)
        again = load_denoiser(tmp_path / "b", dtype=dtype)
        for (name, weight), other in zip(
            again.state_dict().items(), plain.state_dict().values(), strict=True
        ):
            assert torch.equal(weight, other), name

    def test_what_can_be_mapped(self, tmp_path):
        save_denoiser(tiny_denoiser(), tmp_path)
        with pytest.raises(
            SmaltiError, match="mapped must be 'embed_tokens' or 'gen_embedding', not 'layers'"
        ):
            load_denoiser(tmp_path, mapped=("layers",))


def test_a_small_text_embedding_is_not_mapped(cut):
    assert not isinstance(smalti.load(cut).denoiser.embed_tokens, MappedEmbedding)


def fails(folder, message, load=smalti.load):
    with pytest.raises(SmaltiError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


class TestBroken:
    def shard_of(self, folder, tensor):
        places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        return folder / places[tensor]

    def test_a_shard_of_unused_tensors_may_be_missing(self, cut):
        shard = self.shard_of(cut, "encoder.vision_tower.weight")
        assert [name for name, entry in read_headers(cut).items() if entry.path == shard] == [
            "encoder.vision_tower.weight"
        ]
        shard.unlink()
        smalti.load(cut)
        report = inspect(cut)
        assert shard.name not in report["files"] and report["parameters"]["unused"] > 0

    def test_a_shard_of_needed_tensors_may_not(self, cut):
        shard = self.shard_of(cut, "encoder.gen_predictor.weight")
        shard.unlink()
        for load in (smalti.load, load_denoiser, inspect):
            fails(cut, f"index.json names {shard.name}, which .* lacks", load)

    def test_truncated(self, cut):
        shard = self.shard_of(cut, "encoder.gen_predictor.weight")
        with open(shard, "r+b") as file:
            file.truncate(shard.stat().st_size - 4096)
        fails(cut, f"{shard.name} is truncated or not a safetensors file")
        with open(shard, "r+b") as file:
            file.truncate(5)
        fails(cut, f"{shard.name} is truncated or not a safetensors file")

    def test_wrong_shape_and_dtype(self, tmp_path):
        folder = write_release(tmp_path / "m", config=CUT, vq=CUT_VQ, vision_tower=(8, 0))
        entries = read_headers(folder)

        def rewrite(name, shape, dtype):
            tensors = [(key, entry.shape, entry.dtype) for key, entry in entries.items() if key != name]
            write_holes(folder / "model.safetensors", [*tensors, (name, shape, dtype)])

        rewrite("encoder.gen_predictor.weight", (2048, 255), "BF16")
        fails(folder, r"gen_predictor.weight must be \(2048, 256\) by config.json, not \(2048, 255\)")
        rewrite("encoder.gen_predictor.weight", (2048, 256), "I32")
        fails(folder, "gen_predictor.weight must be floating-point, not I32")
        rewrite("encoder.embed_tokens.weight", (4096, 256), "I32")
        fails(folder, "embed_tokens.weight must be floating-point, not I32")

    def test_a_folder_of_another_kind(self, cut):
        path = cut / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "llama"}))
        fails(cut, "config.json: model_type must be 'nemotron_labs_diffusion_image'.*not 'llama'")

    def test_the_image_tokenizer_inside_the_shards(self, tmp_path):
        folder = write_release(
            tmp_path / "m",
            config=CUT,
            vq=CUT_VQ,
            vision_tower=(8, 0),
            image_tokenizer=False,
            shard_bytes=3_000_000,
        )
        assert smalti.load(folder).image_tokenizer.config.codebook_size == 2048
        report = inspect(folder)
        inside = report["image_tokenizer"]["parameters"]["total"]
        expected = sum(weight.numel() for weight in load_image_tokenizer(folder).parameters())
        assert inside == expected


def test_golden_draws_the_same_with_mapped_embeddings(tmp_path, monkeypatch):
    monkeypatch.setattr("smalti.runtime.memory.MAPPED_BYTES", 1)
    pipe = smalti.load(GOLDEN)
    assert isinstance(pipe.denoiser.embed_tokens, MappedEmbedding)
    monkeypatch.undo()
    plain = smalti.load(GOLDEN)
    settings = dict(num_inference_steps=2, height=128, width=128, seed=0, output_type="tokens")
    assert torch.equal(pipe("a cat", **settings).tokens, plain("a cat", **settings).tokens)
