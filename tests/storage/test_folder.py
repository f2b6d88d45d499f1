"""Model folders: strict reading, atomic writing."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import GOLDEN, tiny_denoiser

import smalti.storage.headers
import smalti.storage.mapping
import smalti.storage.weights
from smalti.errors import SmaltiError
from smalti.model.text import train_text_tokenizer
from smalti.storage.folder import (
    load_config,
    load_denoiser,
    load_image_tokenizer,
    load_text_tokenizer,
    save_denoiser,
    save_image_tokenizer,
)
from smalti.storage.headers import read_headers
from smalti.storage.inspection import inspect
from smalti.storage.mapping import map_tensor


def equal(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def copy_golden(folder, *, image_tokenizer=True):
    shutil.copytree(
        GOLDEN, folder, ignore=None if image_tokenizer else shutil.ignore_patterns("emu3_vqvae", "expected*")
    )
    return folder


def edit_json(path, **changes):
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))


@pytest.fixture
def model(tmp_path):
    """A tiny model of our own in one file."""
    folder = tmp_path / "model"
    save_denoiser(tiny_denoiser(), folder)
    return folder


class TestRelease:
    def test_the_golden_folder_loads(self):
        config = load_config(GOLDEN)
        assert (config.codebook_size, config.mask_code, config.vocab_size) == (512, 513, 456)
        assert config.group_ce_weight == "{16384:0.2}" and config.rope.rope_type == "yarn"
        assert load_denoiser(GOLDEN, dtype=torch.bfloat16).head.dtype == torch.bfloat16
        assert load_text_tokenizer(GOLDEN).vocab_size == 456

    def test_what_is_not_needed_is_not_read(self, monkeypatch):
        read = []

        names = {(entry.path, entry.offset): name for name, entry in read_headers(GOLDEN).items()}

        def spy(entry, *arguments, **options):
            read.append(names[entry.path, entry.offset])
            return map_tensor(entry, *arguments, **options)

        monkeypatch.setattr(smalti.storage.mapping, "map_tensor", spy)
        denoiser = load_denoiser(GOLDEN)
        assert sorted(read) == sorted("encoder." + name for name in denoiser.state_dict())
        read.clear()
        inspect(GOLDEN)
        assert not read

    def test_the_image_tokenizer_inside_the_weights_is_the_same(self, tmp_path):
        folder = copy_golden(tmp_path / "model", image_tokenizer=False)
        inside, beside = load_image_tokenizer(folder), load_image_tokenizer(GOLDEN)
        assert inside.config == beside.config == load_image_tokenizer(GOLDEN / "emu3_vqvae").config
        assert equal(inside, beside)
        assert load_config(folder) == load_config(GOLDEN)

    def test_inspect_counts(self):
        report = inspect(GOLDEN)
        denoiser, tokenizer = load_denoiser(GOLDEN), load_image_tokenizer(GOLDEN)
        size = sum(weight.numel() for weight in denoiser.parameters())
        assert report["parameters"]["total"] == size == report["dtypes"]["F32"]
        assert report["parameters"]["gen_predictor"] == 512 * 64
        total = sum(weight.numel() for weight in tokenizer.state_dict().values())
        assert report["image_tokenizer"]["parameters"]["total"] == total
        assert report["parameters"]["unused"] == total + 456 * 64 + 64
        assert report["bytes"] == sum(path.stat().st_size for path in GOLDEN.glob("model-*.safetensors"))
        json.dumps(report)


class TestRoundTrip:
    @pytest.mark.parametrize("conditioning", ["sequence", "cross_attention"])
    @pytest.mark.parametrize("shard", [10**9, 20_000, 1])
    def test_denoiser(self, tmp_path, conditioning, shard):
        denoiser = tiny_denoiser(conditioning=conditioning, sampling={"guidance_scale": 2.0})
        save_denoiser(denoiser, tmp_path / "a" / "b", max_shard_bytes=shard)
        again = load_denoiser(tmp_path / "a" / "b")
        assert again.config == denoiser.config and equal(again, denoiser)
        assert (tmp_path / "a" / "b" / "model.safetensors").is_file() == (shard == 10**9)
        names = {name for path in (tmp_path / "a" / "b").glob("*.safetensors") for name in load_file(path)}
        assert names == {"encoder." + name for name in denoiser.state_dict()}

    def test_short_floats(self, tmp_path):
        denoiser = tiny_denoiser()
        save_denoiser(denoiser, tmp_path, dtype=torch.bfloat16)
        assert inspect(tmp_path)["dtypes"].keys() == {"BF16"}
        assert equal(load_denoiser(tmp_path, dtype=torch.bfloat16), tiny_denoiser().bfloat16())
        assert load_denoiser(tmp_path).head.dtype == torch.float32
        assert denoiser.head.dtype == torch.float32

    def test_image_tokenizer(self, tmp_path):
        tokenizer = load_image_tokenizer(GOLDEN)
        save_image_tokenizer(tokenizer, tmp_path)
        again = load_image_tokenizer(tmp_path)
        assert again.config == tokenizer.config and equal(again, tokenizer)
        assert inspect(tmp_path)["model_type"] == "Emu3p5VisionVQ"

    def test_loaded_weights_do_not_hang_on_the_file(self, model):
        denoiser = load_denoiser(model)
        before = denoiser.head.detach().clone()
        (model / "model.safetensors").write_bytes(b"")
        assert torch.equal(denoiser.head, before)
        denoiser.head.sum().backward()


class TestSaving:
    def test_another_cut_leaves_no_old_files(self, tmp_path):
        for limit in (30_000, 10**9, 5_000, 30_000):
            save_denoiser(tiny_denoiser(seed=limit), tmp_path, max_shard_bytes=limit)
            files = {path.name for path in tmp_path.iterdir()}
            listed = set(inspect(tmp_path)["files"])
            assert files - listed <= {"config.json", "model.safetensors.index.json"}
            assert equal(load_denoiser(tmp_path), tiny_denoiser(seed=limit))

    @pytest.mark.parametrize("fail_at", [1, 2])
    def test_a_failure_half_way_leaves_what_was_there(self, tmp_path, monkeypatch, fail_at):
        save_denoiser(tiny_denoiser(seed=1), tmp_path, max_shard_bytes=30_000)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        calls = []

        def full(tensors, path, **options):
            calls.append(path)
            if len(calls) == fail_at:
                path.write_bytes(b"half")
                raise OSError(28, "No space left on device")
            save_file(tensors, path, **options)

        monkeypatch.setattr(smalti.storage.weights, "save_file", full)
        with pytest.raises(SmaltiError, match="cannot write .*safetensors"):
            save_denoiser(tiny_denoiser(seed=2), tmp_path, max_shard_bytes=30_000)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    def test_a_folder_that_cannot_be(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(SmaltiError, match="cannot write"):
            save_denoiser(tiny_denoiser(), tmp_path / "file")
        with pytest.raises(SmaltiError, match="max_shard_bytes"):
            save_denoiser(tiny_denoiser(), tmp_path / "model", max_shard_bytes=0)


def fails(folder, message, load=load_denoiser):
    with pytest.raises(SmaltiError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


class TestStrictness:
    def rewrite(self, model, change):
        weights = load_file(model / "model.safetensors")
        change(weights)
        save_file(weights, model / "model.safetensors")

    def test_missing_folder_and_files(self, tmp_path, model):
        for load in (load_denoiser, load_image_tokenizer, load_text_tokenizer, load_config, inspect):
            fails(tmp_path / "nowhere", "model folder .*nowhere does not exist", load)
            fails(model / "config.json", "does not exist", load)
        (model / "model.safetensors").unlink()
        fails(model, "holds neither model.safetensors nor model.safetensors.index.json")
        fails(model, "tokenizer.json", load_text_tokenizer)
        (model / "config.json").unlink()
        fails(model, "config.json does not exist")
        (model / "adapter_config.json").touch()
        fails(model, "is an adapter, not a model: name its base as the model")

    def test_missing_tensors(self, model):
        self.rewrite(model, lambda weights: weights.pop("encoder.norm.weight"))
        fails(model, "lacks tensor encoder.norm.weight$")
        fails(model, "lacks tensor encoder.norm.weight$", inspect)
        self.rewrite(
            model, lambda weights: [weights.pop(name) for name in list(weights) if "layers.1" in name]
        )
        fails(model, r"num_hidden_layers must be 1 by the tensors encoder\.layers\.\*, not 2")

    def test_extra_tensors(self, model):
        self.rewrite(model, lambda weights: weights.update({"encoder.novel.weight": torch.zeros(2)}))
        fails(model, "holds tensor encoder.novel.weight, which the architecture in config.json does not have")

    def test_misshapen_tensors(self, model):
        self.rewrite(model, lambda weights: weights.update({"encoder.norm.weight": torch.zeros(31)}))
        fails(model, r"encoder.norm.weight must be \(32,\) by config.json, not \(31,\)")

    def test_tensors_that_are_not_numbers_of_the_right_kind(self, model):
        self.rewrite(model, lambda weights: weights.update({"encoder.norm.weight": torch.zeros(32).int()}))
        fails(model, "encoder.norm.weight must be floating-point, not I32")
        with pytest.raises(SmaltiError, match="dtype must be floating-point, not torch.int8"):
            load_denoiser(model, dtype=torch.int8)

    @pytest.mark.parametrize("keep", [0, 4, 100, -1, -1000])
    def test_truncated_weights(self, model, keep):
        path = model / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])
        for load in (load_denoiser, inspect):
            fails(model, "model.safetensors is truncated or not a safetensors file", load)

    def test_weights_without_permission(self, model, monkeypatch):
        # Not by chmod, because root may read everything.
        def refuse(path, *arguments):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(smalti.storage.headers, "open", refuse, raising=False)
        fails(model, "model.safetensors cannot be read: Permission denied$")

    def test_truncated_shards(self, tmp_path):
        folder = copy_golden(tmp_path / "model")
        path = folder / "model-00002-of-00002.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        fails(folder, "model-00002-of-00002.safetensors is truncated")

    def test_an_index_that_lies(self, tmp_path):
        folder = copy_golden(tmp_path / "model")
        index = folder / "model.safetensors.index.json"
        places = json.loads(index.read_text())["weight_map"]
        edit_json(index, weight_map={**places, "encoder.norm.weight": "model-00002-of-00002.safetensors"})
        fails(
            folder, "places encoder.norm.weight in model-00002-of-00002.safetensors, which does not hold it"
        )
        edit_json(index, weight_map={**places, "encoder.norm.weight": "model-00003-of-00002.safetensors"})
        fails(folder, "names model-00003-of-00002.safetensors, which .* lacks")
        edit_json(index, weight_map={**places, "encoder.norm.weight": "../model.safetensors"})
        fails(folder, r"names \.\./model.safetensors")
        edit_json(index, weight_map=[])
        fails(folder, "must hold a weight_map")
        index.write_text("{")
        fails(folder, "index.json is not JSON")
        edit_json(folder / "config.json", mm_vqvae="emu3_vqvae")
        (folder / "model-00001-of-00002.safetensors").unlink()
        index.write_text(json.dumps({"weight_map": places}))
        fails(folder, "names model-00001-of-00002.safetensors, which .* lacks")

    def test_another_architecture(self, tmp_path, model):
        edit_json(model / "config.json", model_type="llama")
        for load in (load_denoiser, load_image_tokenizer, inspect):
            fails(model, "config.json: model_type must be .* not 'llama'", load)
        save_image_tokenizer(load_image_tokenizer(GOLDEN), tmp_path / "vq")
        fails(tmp_path / "vq", "model_type must be 'nemotron_labs_diffusion_image', not 'Emu3p5VisionVQ'")
        edit_json(tmp_path / "vq" / "config.json", model_type="VQGAN")
        fails(tmp_path / "vq", "not 'VQGAN'", load_image_tokenizer)

    def test_a_config_that_does_not_fit(self, model):
        edit_json(model / "config.json", num_hidden_layers=3)
        fails(model, r"num_hidden_layers must be 2 by the tensors encoder\.layers\.\*, not 3")
        edit_json(model / "config.json", num_hidden_layers=2, head_dim=16)
        fails(model, "must be .* by config.json, not")
        edit_json(model / "config.json", head_dim=0)
        fails(model, "config.json: head_dim must be a whole number from 1 to 4096, not 0")
        (model / "config.json").write_text("[1]")
        fails(model, "config.json must hold a JSON object, not list")

    def test_folders_outside_the_model(self, model):
        for name in ("../elsewhere", "/etc", 3):
            edit_json(model / "config.json", mm_vqvae=name)
            fails(model, "mm_vqvae must name", load_image_tokenizer)

    def test_an_image_tokenizer_that_is_nowhere(self, model):
        fails(model, "emu3_vqvae does not exist, and .* holds no encoder.vqvae", load_image_tokenizer)
        self.rewrite(model, lambda weights: weights.update({"encoder.vqvae.odd": torch.zeros(2)}))
        fails(model, "tensors are not those of an image tokenizer", load_image_tokenizer)

    def test_a_codebook_size_that_is_nowhere(self, model):
        edit_json(model / "config.json", codebook_size=...)
        assert load_denoiser(model).config.codebook_size == 64, "the head tells"
        self.rewrite(model, lambda weights: weights.pop("encoder.gen_predictor.weight"))
        fails(model, "codebook_size must be a whole number from 1 to 16777216, not None")

    def test_more_text_ids_than_embeddings(self, model):
        train_text_tokenizer(["a cat"], 457, model / "tokenizer.json")
        edit_json(model / "config.json", vocab_size=300)
        fails(model, "more than vocab_size 300", load_text_tokenizer)
