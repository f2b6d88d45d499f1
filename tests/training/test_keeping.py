"""Images that keep the frozen model's predictions while an adapter learns the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapter_steps import adapter_steps, configured, make_task_of
from PIL import Image
from ranks import run_ranks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from smalti.data.order import Place
from smalti.errors import SmaltiError
from smalti.model.lora import all_adapters
from smalti.runtime.products import forward_products
from smalti.training.keeping import Keeping

CAPTIONS = ["a red circle", "two Rabbits", "a blue rabbit", "no prompt"]


class Texts:
    """Token shards as far as their captions go."""

    def __len__(self):
        return len(CAPTIONS)

    def captions_of(self, row):
        return [CAPTIONS[row]]

    def all_captions(self):
        return iter(CAPTIONS)


def keeping_task(**changes):
    """A task whose new word is in some captions of the tiny training and lacks in others."""
    configured("keeping", {"new_words": ["red"], "keep_weight": 2.0, **changes})
    return make_task_of("keeping.yaml")


def disturb(task):
    generator = torch.Generator().manual_seed(0)
    for adapter in all_adapters(task.model):
        adapter.up.data.normal_(0, 0.1, generator=generator)


def test_captions_without_the_words():
    keeping = Keeping([Texts()], ["rabbit"], 1.0, 0.2)
    assert keeping.select([Place(0, row) for row in range(4)]).tolist() == [True, True, False, True]
    both = Keeping([Texts()], ["rabbit", "rabbits"], 1.0, 0.2)
    assert both.select([Place(0, row) for row in (2, 1, 0)]).tolist() == [False, False, True]


def test_the_share_of_images_that_are_kept():
    keeping = Keeping([Texts()], ["rabbit"], 1.0, 0.2)
    assert keeping.share(0.0, 0.0) == 0.75
    assert keeping.share(0.0, 0.2) == pytest.approx(0.8)
    both = Keeping([Texts(), Texts()], ["rabbit"], 1.0, 0.2)
    assert both.share(0.5, 0.2) == pytest.approx(0.8)


def test_the_frozen_models_pass_counts_among_the_products(workspace, monkeypatch):
    """A kept image costs a forward pass more, by PyTorch's counter and in what a task reports."""
    monkeypatch.setattr(
        "smalti.ops.gce._has_onednn", lambda: False
    )  # PyTorch's counter does not know its products
    task = keeping_task(targets=["q_proj"])
    images = range(8)
    batch = task.batch(images)
    counted = []
    for kept in (None, torch.ones(8, dtype=torch.bool)):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            task.loss(batch._replace(kept=kept), images, 0).weighted_sum.backward()
        counted.append(counter.get_total_flops() / len(images))
    text = batch.prompt.ids.shape[1] - batch.prompt.slots
    frozen = forward_products(task.parts.model_config, task.parts.grid, text)
    assert counted[1] - counted[0] == pytest.approx(frozen, rel=0.05)
    share = task._kept_share()
    assert 0 < share < 1
    keeping, task.keeping = task.products(), None
    assert keeping == pytest.approx(task.products() * (2 + share) / 2)


def test_a_word_that_no_caption_has_is_refused():
    with pytest.raises(SmaltiError, match="adapter.new_words must be words of the captions, .* 'cat'"):
        Keeping([Texts()], ["rabbit", "cat"], 1.0, 0.2)


def test_a_folder_without_the_words_is_refused_before_it_is_encoded(workspace):
    Path("photos").mkdir()
    Image.new("RGB", (32, 32)).save("photos/a.png")
    Path("photos/a.txt").write_text("a red fox")
    data = {"kind": "folder", "path": "photos", "size": 32}
    configured("fox", {"new_words": ["cat"]}, data=data, cache={"path": "fox-cache"})
    with pytest.raises(SmaltiError, match="adapter.new_words must be words of the captions, .* 'cat'"):
        make_task_of("fox.yaml")
    assert not list(Path().glob("fox-cache/shard-*"))


@pytest.mark.parametrize("word", ["Rabbit", "two words", "rabbit-hole", "7"])
def test_what_is_no_word_is_refused(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SmaltiError, match="adapter.new_words: must hold single words in lower case"):
        configured(adapter={"new_words": [word]})


def test_dropped_prompts_are_kept(workspace):
    configured("all", {"new_words": ["red"]}, objective={"prompt_drop_rate": 1.0})
    assert make_task_of("all.yaml").batch(range(4)).kept.all()
    configured("none", objective={"prompt_drop_rate": 1.0})
    assert make_task_of("none.yaml").batch(range(4)).kept is None


def test_the_loss_is_that_of_both_parts(workspace):
    task = keeping_task()
    images = range(10)
    batch = task.batch(images)
    assert 0 < int(batch.kept.sum()) < 10
    fresh = task.loss(batch, images, 0)
    assert fresh.numbers["divergence"].total == 0
    disturb(task)
    both = task.loss(batch, images, 0)
    learned = task.loss(batch._replace(kept=torch.zeros(10, dtype=torch.bool)), images, 0)
    only = task.loss(batch._replace(kept=torch.ones(10, dtype=torch.bool)), images, 0)
    assert learned.numbers["divergence"].weight == 0 and only.numbers["loss_masked"].weight == 0
    assert only.weight == pytest.approx(2 * float(learned.weight))
    parts = [
        task.loss(batch._replace(kept=None if keep else batch.kept), images, 0) for keep in (False, True)
    ]
    assert parts[1].weight == learned.weight and "divergence" not in parts[1].numbers
    assert both.numbers["divergence"].value > 0
    assert both.numbers["loss_masked"].weight + both.numbers["divergence"].weight == batch.masked.sum()


def test_factors_of_the_loss_count_for_kept_images(workspace):
    """Masks and the weight of a second set are factors of whatever loss an image has."""
    task = keeping_task()
    disturb(task)
    images = range(4)
    batch = task.batch(images)._replace(kept=torch.ones(4, dtype=torch.bool))
    whole = task.loss(batch, images, 0)
    half = task.loss(batch._replace(weights=torch.full(batch.masked.shape, 0.5)), images, 0)
    assert float(half.weight) == pytest.approx(float(whole.weight) / 2)
    assert half.weighted_sum.item() == pytest.approx(whole.weighted_sum.item() / 2, rel=1e-5)
    black = torch.ones(batch.masked.shape)
    black[0] = 0
    rest = task.loss(batch._replace(weights=black), images, 0)
    assert float(rest.weight) < float(whole.weight)


def test_where_nothing_has_changed_nothing_pulls(workspace):
    """Images that are kept have no gradient before the first step, and pull back afterwards."""
    task = keeping_task()
    images = range(10)
    batch = task.batch(images)._replace(kept=torch.ones(10, dtype=torch.bool))
    task.loss(batch, images, 0).weighted_sum.backward()
    adapters = list(all_adapters(task.model))
    assert all(part.grad is not None and not part.grad.any() for a in adapters for part in (a.down, a.up))
    disturb(task)
    before = task.loss(batch, images, 0)
    before.weighted_sum.backward()
    with torch.no_grad():
        for adapter in adapters:
            adapter.up -= 1e-3 * adapter.up.grad / adapter.up.grad.norm()
    assert task.loss(batch, images, 0).weighted_sum < before.weighted_sum
    assert all(adapter.strength == 1 for adapter in adapters)


@pytest.mark.slow
def test_two_processes(workspace, tmp_path):
    """One process, copies of the base, or shards of base and adapter: the same five steps."""
    configured(adapter={"new_words": ["red"]})
    (alone,) = adapter_steps({"alone": []}).values()
    shares = ["loop.batch_size=1", "loop.accumulate=4"]
    cases = {"ddp": shares, "fsdp": ["distribution.strategy=fsdp", *shares]}
    first, _ = run_ranks(2, adapter_steps, tmp_path, cases)
    for name, found in first.items():
        for (_, loss), (_, expected) in zip(found["losses"], alone["losses"], strict=True):
            assert loss == pytest.approx(expected, abs=5e-6), name
        for key, value in alone["weights"].items():
            torch.testing.assert_close(found["weights"][key], value, rtol=1e-4, atol=1e-5)
    assert "divergence" in Path("alone/log.jsonl").read_text()
