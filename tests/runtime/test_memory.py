"""Computed memory: against the release's numbers, against what a pass really holds, and what is chosen by it."""

from __future__ import annotations

import weakref

import pytest
import torch
from folders import write_tiny_model
from release_shape import CUT, CUT_VQ, write_release
from tiny import tiny_denoiser, tiny_prompts
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import smalti
import smalti.runtime.memory
import smalti.storage.loading
from smalti.errors import SmaltiError
from smalti.runtime.memory import Mode, ModelSize, need, parse_memory, working_bytes
from smalti.runtime.modes import cards, choose, modes, table
from smalti.storage.inspection import inspect
from smalti.storage.mapping import MappedEmbedding

GB = 10**9


@pytest.fixture(scope="module")
def size(tmp_path_factory):
    """The release's."""
    return ModelSize.of(inspect(write_release(tmp_path_factory.mktemp("release") / "model")))


class TestNeed:
    def test_weights_of_the_release(self, size):
        """7.4 B of layers, 0.54 B for each embedding and the head, 0.13 B of compression, 0.46 B of image tokenizer."""
        weights = need(size, Mode("bfloat16")).weights
        assert {name: round(count / GB, 2) for name, count in weights.items()} == {
            "layers": 14.83,
            "text embedding": 1.08,
            "image embedding": 1.08,
            "head": 1.07,
            "compression": 0.27,
            "image tokenizer": 1.82,
        }
        assert need(size, Mode("float32")).weights["layers"] == 4 * size.layers
        assert need(size, Mode(quantize="int8")).weights["layers"] == size.layers
        assert need(size, Mode(quantize="int4")).weights["layers"] / size.layers == pytest.approx(
            0.547, abs=1e-3
        )

    def test_what_a_mode_saves(self, size):
        plain = need(size, Mode())
        mapped = need(size, Mode(mapped=("embed_tokens", "gen_embedding")))
        assert mapped.weights["text embedding"] == mapped.weights["image embedding"] == 0
        streamed = need(size, Mode(offload="layers"))
        assert streamed.weights["layers"] == pytest.approx(2 * 2 * size.layers / 34, rel=1e-6)
        assert 1 <= streamed.host / (2 * size.layers) < 1.2 and plain.host == 0
        assert need(size, Mode(quantize="int8", offload="layers")).host == pytest.approx(
            streamed.host / 2, rel=1e-6
        )
        on_cpu = need(size, Mode(image_tokenizer_on_cpu=True))
        assert on_cpu.weights["image tokenizer"] == 0 and on_cpu.working < plain.working
        half = need(size, Mode(image_tokenizer_dtype="bfloat16"))
        assert 2 * half.weights["image tokenizer"] == plain.weights["image tokenizer"]
        once = working_bytes(size, Mode(), 1024, 1024)["pass"]
        assert working_bytes(size, Mode(guidance_batched=False), 1024, 1024)["pass"] < 0.7 * once

    def test_recorded_passes_keep_their_memory(self, size):
        once = working_bytes(size, Mode(), 1024, 1024)["pass"]
        plain, compiled = (need(size, Mode(compiled=compiled)) for compiled in (False, True))
        assert compiled.total - plain.total == once and compiled.weights == plain.weights
        # Streamed layers are not recorded.
        streamed = [need(size, Mode(offload="layers", compiled=compiled)) for compiled in (False, True)]
        assert streamed[0] == streamed[1]
        options = dict(dtype="bfloat16", streams=True)
        assert str(choose(size, 24 * GB, compiled=True, **options)).endswith(", compiled")
        # What is only just enough for a plain model is not for a recorded one.
        assert choose(size, plain.total, **options) != choose(size, plain.total, compiled=True, **options)

    def test_larger_pictures_need_more(self, size):
        assert need(size, Mode(), height=2048, width=2048).working > 3 * need(size, Mode()).working

    def test_working_memory_of_the_release(self, size):
        """The issue's bars: pixels within 2 GB, everything beside the weights within 3 GB."""
        stages = working_bytes(size, Mode(), 1024, 1024)
        assert stages["pixels"] < 2 * GB and max(stages.values()) + 3e8 < 3 * GB

    def test_the_table(self, size):
        rows = table(size)
        assert [row["precision"] for row in rows] == ["float32", "bfloat16", "int8", "int4"]
        totals = [row["total"] for row in rows]
        assert totals == sorted(totals, reverse=True) and all(row["computed"] is True for row in rows)
        assert all(row["total"] == sum(row["weights"].values()) + row["working"] for row in rows)


def test_constants_are_those_of_the_code():
    """The arithmetic names again how large chunks and bands are elsewhere, so that it needs no PyTorch."""
    from smalti.ops import sample, sample_torch
    from smalti.vq import banded, tokenizer

    assert smalti.runtime.memory._HEAD_LOGITS == sample._CHUNK_ELEMENTS_ELSEWHERE
    assert smalti.runtime.memory._HEAD_ROWS == sample._LEAST_ROWS
    assert smalti.runtime.memory._HEAD_SWEPT == sample_torch._SWEPT_ELEMENTS_ELSEWHERE
    assert smalti.runtime.memory._WHOLE_MAP == tokenizer.WHOLE_BYTES
    assert (
        smalti.runtime.memory._BAND >= banded.BAND_BYTES and smalti.runtime.memory._KEPT == banded.KEEP_BYTES
    )


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside hold at once."""

    def __init__(self, weights):
        super().__init__()
        self.seen = {weight.untyped_storage()._cdata for weight in weights}
        self.live = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(storage._cdata)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        return result

    def freed(self, key, size):
        self.seen.discard(key)
        self.live -= size


@pytest.mark.parametrize("grid", [(32, 32), (2, 2)], ids=["embedding", "layers"])
def test_a_pass_holds_what_was_computed(grid, monkeypatch):
    """Counted tensor by tensor: where the picture's embedding is the most, and where the layers are."""
    # Chunks of attention's weights count as workspaces do: beside a small model they are large.
    monkeypatch.setattr("smalti.model.attention._own_is_faster", lambda: False)
    denoiser = tiny_denoiser(hidden_size=128, head_dim=32, intermediate_size=448).bfloat16()
    config = denoiser.config
    prompt = tiny_prompts(denoiser, ["a b " * 400], grid=grid)
    tokens = torch.full((1, *grid), config.mask_code)
    with torch.inference_mode():
        denoiser(tokens, prompt)  # makes the rotary tables, which stay
        with Peak(denoiser.parameters()) as peak:
            denoiser(tokens, prompt)
    size = ModelSize(
        **dict.fromkeys(
            (
                "layers",
                "streamable",
                "text_embedding",
                "image_embedding",
                "head",
                "compression",
                "image_tokenizer",
            ),
            1,
        ),
        layer_count=2,
        largest_map=1024,
        hidden_size=128,
        intermediate_size=448,
        vocabulary=64,
        downscale=16,
        cell=2,
        image_size=512,
    )
    # The arithmetic allows for a prompt of a usual length.
    monkeypatch.setattr(smalti.runtime.memory, "_TEXT_POSITIONS", prompt.ids.shape[1] - prompt.slots)
    stages = working_bytes(size, Mode(guidance_batched=False), 16 * grid[0], 16 * grid[1])
    # In two passes the first one's result waits for the second's, which is not made here.
    computed = stages["pass"] - grid[0] * grid[1] * 128 * 2
    assert 0.95 * peak.peak <= computed <= 1.2 * peak.peak


def test_cards(size):
    rows = cards(size)
    assert [row["memory"] for row in rows] == ["16GB", "12GB", "8GB"]
    assert all(row["total"] <= int(row["memory"][:-2]) * GB and row["computed"] for row in rows)
    assert [row["host"] > 0 for row in rows] == [False, False, True]


class TestChoose:
    def chosen(self, size, budget, **options):
        mode = choose(size, int(budget * GB), **{"dtype": "bfloat16", "streams": True, **options})
        assert need(size, mode).total <= budget * GB
        return mode

    def test_cards(self, size):
        assert str(self.chosen(size, 80)) == "bfloat16, text embedding in its file"
        assert self.chosen(size, 24) == self.chosen(size, 80)
        assert self.chosen(size, 16).quantize == "int8" and self.chosen(size, 16).offload is None
        assert self.chosen(size, 8).offload == "layers" and self.chosen(size, 8).quantize is None
        # Where the host has no room for the layers either, they are made smaller.
        little = self.chosen(size, 8, host=5 * GB)
        assert (little.quantize, little.offload) == ("int4", None)
        assert self.chosen(size, 4, host=20 * GB).image_tokenizer_on_cpu

    def test_decoding_has_what_the_weights_leave(self, size):
        large, small = self.chosen(size, 80), self.chosen(size, 24)
        assert large.pixel_bytes - small.pixel_bytes == 56 * GB
        assert 24 * GB - small.pixel_bytes > sum(need(size, small).weights.values())
        for budget in (24, 16, 12, 8):
            mode = self.chosen(size, budget)
            assert (
                mode.image_tokenizer_on_cpu
                or mode.pixel_bytes >= working_bytes(size, mode, 1024, 1024)["pixels"]
            )
        assert self.chosen(size, 4, host=20 * GB).pixel_bytes is None

    def test_more_memory_never_costs_more(self, size):
        order = list(modes(size, dtype="bfloat16", streams=True))
        places = [
            order.index(self.chosen(size, budget)) for budget in (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 48)
        ]
        assert places == sorted(places, reverse=True)

    def test_what_was_named_is_kept(self, size):
        for budget in (6, 8, 16, 24):
            assert self.chosen(size, budget, offload="layers").offload == "layers"
        assert self.chosen(size, 24, quantize="int4").quantize == "int4"
        assert self.chosen(size, 16, quantize="fp8").quantize == "fp8"
        assert self.chosen(size, 40, dtype="float32", quantize="int8").dtype == "float32"

    def test_a_cpu_streams_nothing(self, size):
        for budget in (9, 12, 16, 24):
            mode = self.chosen(size, budget, streams=False)
            assert mode.offload is None and not mode.image_tokenizer_on_cpu

    def test_nothing_fits(self, size):
        with pytest.raises(
            SmaltiError, match=r"memory must be at least 2\.\d GB for this model, not 1.0 GB: .*int4"
        ):
            self.chosen(size, 1)
        with pytest.raises(SmaltiError, match=r"memory must be at least \d+\.\d GB .*fp8"):
            self.chosen(size, 1, quantize="fp8")


@pytest.mark.parametrize(
    "text, count",
    [("8GB", 8 * 10**9), ("7.5 GiB", int(7.5 * 2**30)), ("900mb", 9 * 10**8), (" 512 MiB ", 2**29)],
)
def test_sizes_in_words(text, count):
    assert parse_memory(text) == count


@pytest.mark.parametrize("text", ["8", "GB", "8 TBB", "-8GB", "8GB2", "", "0GB", 8, 8e9, None])
def test_words_that_are_no_size(text):
    with pytest.raises(SmaltiError, match="memory must be a size such as 8GB, 7.5GiB or 900MB, not"):
        parse_memory(text)


class TestLoading:
    def test_a_budget_is_kept_to(self, tmp_path):
        folder = write_tiny_model(tmp_path / "m")
        pipe = smalti.load(folder, memory="2GB")
        assert pipe.components.mode == Mode("bfloat16") and pipe.denoiser.head.dtype == torch.bfloat16
        assert pipe("a cat", seed=0, num_inference_steps=2).images

    def test_a_small_budget_changes_the_way(self, tmp_path, monkeypatch):
        folder = write_tiny_model(tmp_path / "m")
        size = ModelSize.of(inspect(folder))
        ways = list(modes(size, dtype="float32", streams=False))
        tight = next(mode for mode in ways if not mode.guidance_batched and mode.quantize is None)
        monkeypatch.setattr(smalti.storage.modes, "choose", lambda *arguments, **options: tight)
        pipe = smalti.load(folder, memory="1GB", dtype="float32")
        assert pipe.components.mode == tight and isinstance(pipe.denoiser.gen_embedding, MappedEmbedding)
        assert pipe.image_tokenizer.quant_conv.weight.dtype == torch.bfloat16
        plain = smalti.load(folder)
        settings = dict(seed=0, num_inference_steps=3, guidance_scale=2.0, output_type="pt")
        one, other = pipe("a cat", **settings), plain("a cat", **settings)
        assert torch.equal(one.tokens, other.tokens)
        assert (one.images - other.images).abs().max() < 0.05

    def test_too_small_before_anything_is_read(self, tmp_path, monkeypatch):
        folder = write_release(tmp_path / "m", config=CUT, vq=CUT_VQ, vision_tower=(8, 8))
        monkeypatch.setattr(smalti.storage.loading, "load_denoiser", None)
        with pytest.raises(SmaltiError, match=r"memory must be at least .* for this model, not 1.0 MB"):
            smalti.load(folder, memory="1MB")
        with pytest.raises(SmaltiError, match="memory must be a size such as"):
            smalti.load(folder, memory="plenty")

    def test_a_gpu_that_is_too_small(self, tmp_path, monkeypatch):
        """Said before anything is loaded, with what would fit."""
        folder = write_release(tmp_path / "m")
        place = torch.device("cuda:0")
        monkeypatch.setattr(smalti.storage.loading, "find_device", lambda device: place)
        monkeypatch.setattr(smalti.storage.loading, "load_denoiser", None)
        monkeypatch.setattr(smalti.storage.modes, "host_bytes", lambda: 20 * GB)
        monkeypatch.setattr(smalti.storage.modes, "free_bytes", lambda device: int(15.6 * GB))
        with pytest.raises(SmaltiError) as caught:
            smalti.load(folder, device="cuda")
        message = str(caught.value)
        assert message.startswith(
            "device cuda:0 has 15.6 GB of memory free, and the model needs 21.1 GB (computed)"
        )
        assert "memory='15.6GB' would load it with int8 layers" in message and "\n" not in message
        monkeypatch.setattr(smalti.storage.modes, "free_bytes", lambda device: GB)
        with pytest.raises(SmaltiError, match="memory must be at least"):
            smalti.load(folder, device="cuda")
        with pytest.raises(SmaltiError, match="memory must be at least"):
            smalti.load(folder, device="cuda", memory="24GB")
        monkeypatch.setattr(smalti.storage.modes, "free_bytes", lambda device: 80 * GB)
        monkeypatch.setattr(smalti.storage.modes, "host_bytes", lambda: 8 * GB)
        with pytest.raises(
            SmaltiError, match=r"offload='layers' keeps 17.1 GB in the host's memory, which has 8.0 GB"
        ):
            smalti.load(folder, device="cuda", offload="layers")
