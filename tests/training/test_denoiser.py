"""Training of the denoiser: what it starts from, what it trains on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from trainings import DENOISER, TOKENIZER, losses, make_task, train_stopped_once, write

from smalti.common.low_discrepancy import halton_order, stratified_order
from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError
from smalti.model.words import caption_words
from smalti.storage.folder import load_codebook, load_denoiser
from smalti.training.config import DenoiserRunConfig, TokenizerRunConfig
from smalti.training.denoiser import DenoiserTask, train_denoiser
from smalti.training.preparing import prepare
from smalti.training.reading import load_config
from smalti.training.tokenizer import train_tokenizer
from smalti.vq.groups import CodeGroups

pytestmark = pytest.mark.slow


def test_own_pictures(workspace: Path) -> None:
    """Both trainings on a folder of captioned pictures, one of them broken."""
    (workspace / "pictures").mkdir()
    for index, color in enumerate(("red", "green", "blue")):
        Image.new("RGB", (50, 40 + index), color).save(f"pictures/{index}.png")
        Path(f"pictures/{index}.txt").write_text(f"something {color}")
    Path("pictures/broken.png").write_bytes(b"no picture")
    Path("pictures/broken.txt").write_text("something broken")
    data = {"kind": "folder", "path": "pictures", "size": 32}
    tokenizer = {**TOKENIZER, "output": "own-tokenizer", "data": data, "loss": {}}
    train_tokenizer(load_config(TokenizerRunConfig, write("own.yaml", tokenizer), ["loop.steps=2"]))
    denoiser = {**DENOISER, "output": "own", "tokenizer": "own-tokenizer/model", "data": data}
    denoiser["cache"] = {"path": "own-cache", "samples": 3}
    train_denoiser(load_config(DenoiserRunConfig, write("own.yaml", denoiser), ["loop.steps=2"]))
    assert sorted(TokenShards("own-cache").all_captions()) == [
        "something blue",
        "something green",
        "something red",
    ]
    load_denoiser("own/model")


def test_fine_tuning_starts_from_a_model(workspace: Path) -> None:
    overrides = ["start_from=denoiser/model", "tokenizer=denoiser/model", "output=tuned", "loop.steps=1"]
    still = ["optimizer.learning_rate=1e-12", "optimizer.weight_decay=0"]
    train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", overrides + still))
    before, after = (load_denoiser(folder).state_dict() for folder in ("denoiser/model", "tuned/model"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    new = ["output=convolved", "model.prompt_convolution=2"]
    train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", overrides + still + new))
    after = load_denoiser("convolved/model").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (set(after) - set(before)) == {"prompt_convolution.conv.weight"}
    assert after["prompt_convolution.conv.weight"].abs().max() < 1e-11
    Path("denoiser/model/words.txt").write_text("a\nzebra\n")
    words = make_task(*overrides).parts.words
    assert "zebra" in words and set(caption_words(TokenShards("cache").all_captions())) < set(words)
    config = json.loads(Path("denoiser/model/config.json").read_text())
    chosen = {"sampling": {"order": "halton"}, "presets": {"fast": {"num_inference_steps": 2}}}
    Path("denoiser/model/config.json").write_text(json.dumps({**config, **chosen}))
    kept = make_task(*overrides).parts.model_config
    assert (dict(kept.sampling), dict(kept.presets)) == (chosen["sampling"], chosen["presets"])
    other = make_task(*overrides, "model.sampling={top_k: 3}").parts.model_config
    assert dict(other.sampling) == {"top_k": 3}
    with pytest.raises(SmaltiError, match="start_from: denoiser/model must have the shape"):
        changes = ["output=other", "model.num_hidden_layers=2"]
        train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", overrides + changes))


def test_networks_of_codes_are_trained_resumed_and_folded_into_the_model(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["output=codes", "start_from=denoiser/model", "tokenizer=denoiser/model", "code_network=8"]
    config = load_config(DenoiserRunConfig, "denoiser.yaml", overrides)
    train_denoiser(config)
    whole, weights = losses("codes"), Path("codes/model/model.safetensors").read_bytes()
    plain, folded = (load_denoiser(folder).state_dict() for folder in ("denoiser/model", "codes/model"))
    assert {name: value.shape for name, value in plain.items()} == {
        name: value.shape for name, value in folded.items()
    }
    assert not torch.equal(plain["gen_predictor.weight"], folded["gen_predictor.weight"])
    shutil.rmtree("codes")
    train_stopped_once(config, monkeypatch)
    assert losses("codes") == whole
    assert Path("codes/model/model.safetensors").read_bytes() == weights


def test_groups_are_made_kept_logged_and_inherited(workspace: Path) -> None:
    grouped = ["output=grouped", "objective.group_weights={4: 0.2, 8: 0.1}", "objective.focus=1"]
    train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", grouped))
    entry = json.loads((workspace / "grouped" / "log.jsonl").read_text().splitlines()[-1])
    for count in (4, 8):
        assert 0 < entry[f"loss_group_{count}"] < entry["loss_masked"]
        assert entry["accuracy"] <= entry[f"accuracy_group_{count}"] <= 1
        made = CodeGroups.load(f"grouped/model/groups-{count}.safetensors", load_codebook("grouped/model"))
        assert made.count == count
    assert load_denoiser("grouped/model").config.group_weights == {4: 0.2, 8: 0.1}
    assert make_task("output=more", "start_from=grouped/model").parts.group_weights == {4: 0.2, 8: 0.1}
    too_many = load_config(
        DenoiserRunConfig, "denoiser.yaml", ["output=new", "objective.group_weights={33: 1}"]
    )
    with pytest.raises(SmaltiError, match="objective.group_weights must have at most 32 groups, .*not 33"):
        train_denoiser(too_many)


def test_training_can_see_the_grids_of_the_sampling_order(workspace: Path) -> None:
    orders = {"halton": halton_order(4, 4), "stratified": stratified_order(4)}
    for name, order in orders.items():
        masking = f'objective.masking={{"ordered:order={name}": 1}}'
        task = make_task("output=ordered", masking, "objective.flip_ratio=0")
        assert task.parts.masking.sampling_order(*task.parts.grid) == order
        masked = task.batch(range(4)).masked.flatten(1)[:, list(order)]
        assert torch.equal(masked.sort(dim=1).values, masked)
    assert make_task("output=uniform").parts.masking.sampling_order(4, 4) == ()
    uneven = ['objective.masking={"ordered:order=stratified": 1}', "data.size=24", "cache.path=uneven"]
    with pytest.raises(SmaltiError, match="needs a square grid whose side is a power of two, not 3×3"):
        make_task("output=uneven", *uneven)


def test_subsampling_counts_fewer_tokens_of_the_same_batches(workspace: Path) -> None:
    whole, thinned = (make_task(f"objective.subsampling={t}").batch(range(8)) for t in (0, 0.001))
    assert whole.weights is None
    assert torch.equal(whole.tokens, thinned.tokens)
    counted = thinned.weights > 0
    assert 0 < counted.float().mean() < 1
    assert (thinned.weights[counted] >= 1).all()
    config = load_config(
        DenoiserRunConfig,
        "denoiser.yaml",
        [
            "output=thinned",
            "loop.steps=2",
            "objective.subsampling=0.001",
            "objective.self_generated={start_step: 0}",
        ],
    )
    assert train_denoiser(config)["loss_masked"] > 0


def test_cache_of_other_pictures_is_refused(workspace: Path) -> None:
    with pytest.raises(SmaltiError, match="cache of other images: its data differ"):
        train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", ["data.seed=5", "output=other"]))


def test_a_cache_names_only_settings_that_differ_from_their_defaults(workspace: Path) -> None:
    assert TokenShards("cache").metadata["data"] == {"kind": "scenes", "size": 32, "seed": 1}
    make_task("data.blobs=0", "data.lattice_share=1.0")
    with pytest.raises(SmaltiError, match="cache of other images"):
        make_task("data.blobs=0.5", "output=other")


def test_self_generated_inputs_come_after_the_warm_up_and_every_weight_still_learns(workspace: Path) -> None:
    overrides = ["output=generated", "objective.self_generated={share: 1.0, passes: 2, start_step: 3}"]
    config = load_config(DenoiserRunConfig, "denoiser.yaml", overrides)
    train_denoiser(config)
    lines = Path("generated/log.jsonl").read_text().splitlines()
    entries = [entry for line in lines if "loss" in (entry := json.loads(line))]
    assert losses("generated")[:3] == losses("denoiser")[:3]
    assert all(a != b for a, b in zip(losses("generated")[3:], losses("denoiser")[3:], strict=True))
    assert [entry["self_generated_right"] for entry in entries[:3]] == [0, 0, 0]
    task = DenoiserTask(config, prepare(config))
    with torch.autocast("cpu", torch.bfloat16):
        loss = task.loss(task.batch(range(4)), range(4), 3)
    loss.weighted_sum.backward()
    assert all(parameter.grad is not None for parameter in task.model.parameters())


def test_prompts_encoded_ahead_are_those_of_their_batch(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = make_task("output=ahead")
    monkeypatch.setattr("smalti.training.prompting._IDS_AHEAD", 0)
    by_batch = make_task("output=ahead")
    assert ahead.captions.encoded is not None and by_batch.captions.encoded is None
    for index in range(3):
        images = range(4 * index, 4 * index + 4)
        assert torch.equal(ahead.batch(images).prompt.ids, by_batch.batch(images).prompt.ids)
        assert torch.equal(ahead.batch(images).prompt.slot_start, by_batch.batch(images).prompt.slot_start)


def test_the_mix_of_scenes_is_the_configurations(workspace: Path) -> None:
    task = make_task("output=mixed", "cache.path=mixed-cache", "data.mix={counting: 1}")
    captions = task.parts.tokens.images.all_captions()
    assert all(any(number in caption for number in ("two", "three", "four")) for caption in captions)
    with pytest.raises(SmaltiError, match="mix must weight some of"):
        make_task("cache.path=other", "data.mix={circles: 1}")
