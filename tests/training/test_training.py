"""Training: configuration, exact resume, a kill in the middle, a clean stop, usable results."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from smalti.data.cache import TokenCache, build_cache
from smalti.data.sources import shuffled_indices
from smalti.errors import SmaltiError
from smalti.storage.folder import load_codebook, load_denoiser, load_image_tokenizer
from smalti.training.caching import fingerprint
from smalti.training.config import DenoiserRunConfig, OptimizerConfig, TokenizerRunConfig, load_config
from smalti.training.denoiser import DenoiserTask, train_denoiser
from smalti.training.optimizer import learning_rate
from smalti.training.tokenizer import TokenizerTask, busiest_part, train_tokenizer
from smalti.vq.groups import CodeGroups

TOKENIZER = {
    "output": "tokenizer",
    "data": {"size": 32},
    "model": {
        "ch": 8,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "z_channels": 8,
        "embed_dim": 4,
        "codebook_size": 32,
        "patch_size": 4,
        "norm": "position",
    },
    "loss": {"quantize_after": 2},
    "loop": {"steps": 6, "batch_size": 2, "log_every": 1, "preview_every": 6, "checkpoint_every": 3},
}
DENOISER = {
    "output": "denoiser",
    "tokenizer": "tokenizer/model",
    "data": {"size": 32, "seed": 1},
    "cache": {"path": "cache", "samples": 10},
    "text": {"vocab_size": 400, "captions": 10},
    "model": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 24,
        "image_positions": "axial",
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "prompt": {"template": "{prompt}<|im_end|>{slots}"},
    },
    "loop": {"steps": 6, "batch_size": 4, "log_every": 1, "preview_every": 6, "checkpoint_every": 3},
}


def write(name: str, values: dict) -> str:
    Path(name).write_text(yaml.safe_dump(values))
    return name


def losses(run: str) -> list[tuple[int, float]]:
    entries = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    return [(entry["step"], entry["loss"]) for entry in entries]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole run of both trainings in it."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        train_tokenizer(load_config(TokenizerRunConfig, write("tokenizer.yaml", TOKENIZER)))
        train_denoiser(load_config(DenoiserRunConfig, write("denoiser.yaml", DENOISER)))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def workspace(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.slow
def test_a_run_leaves_log_previews_checkpoint_and_model(workspace: Path) -> None:
    for run in ("tokenizer", "denoiser"):
        assert [step for step, _ in losses(run)] == [1, 2, 3, 4, 5, 6]
        assert (workspace / run / "previews" / "step-00000006.png").exists()
        assert [path.name for path in (workspace / run).glob("checkpoint-*")] == ["checkpoint-00000006"]
    tokenizer = load_image_tokenizer("denoiser/model")
    denoiser = load_denoiser("denoiser/model")
    assert denoiser.config.codebook_size == tokenizer.config.codebook_size == 32
    assert denoiser.config.image_size == 32
    last = json.loads((workspace / "tokenizer" / "log.jsonl").read_text().splitlines()[-1])
    assert last["validation_psnr"] > 0 and 0 < last["validation_codes_used"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "run"),
    [(TokenizerRunConfig, "tokenizer", train_tokenizer), (DenoiserRunConfig, "denoiser", train_denoiser)],
)
def test_resuming_repeats_an_uninterrupted_run_exactly(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, run: object
) -> None:
    whole = losses(name)
    weights = (workspace / name / "checkpoint-00000006" / "weights.safetensors").read_bytes()
    shutil.rmtree(name)
    config = load_config(kind, f"{name}.yaml")
    # A kill at the worst moments: after step 4 was logged, and while the checkpoint of step 6 was being written.
    from smalti.training import loop

    real, calls = loop.save_checkpoint, []

    def dies_on_the_second(run: Path, step: int, *rest: object) -> Path:
        calls.append(step)
        if len(calls) == 2:
            (run / f"checkpoint-{step:08d}.tmp").mkdir()
            raise KeyboardInterrupt
        return real(run, step, *rest)

    monkeypatch.setattr(loop, "save_checkpoint", dies_on_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert calls == [3, 6]
    monkeypatch.setattr(loop, "save_checkpoint", real)
    run(config)
    assert losses(name) == whole
    assert (workspace / name / "checkpoint-00000006" / "weights.safetensors").read_bytes() == weights
    assert not list((workspace / name).glob("*.tmp"))


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint(workspace: Path) -> None:
    shutil.rmtree("denoiser")
    values = {**DENOISER, "loop": {**DENOISER["loop"], "steps": 100000, "checkpoint_every": 100000}}
    code = (
        "from smalti.training.config import *; from smalti.training.denoiser import train_denoiser; import sys;"
        "train_denoiser(load_config(DenoiserRunConfig, sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, write("long.yaml", values)], stderr=subprocess.PIPE, text=True
    )
    log = workspace / "denoiser" / "log.jsonl"
    deadline = time.monotonic() + 100
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0 and "Traceback" not in errors
    assert "the same command goes on from there" in errors
    (checkpoint,) = (workspace / "denoiser").glob("checkpoint-*")
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    assert step >= 3 and checkpoint.name == f"checkpoint-{step:08d}"
    load_denoiser(checkpoint / "model")


@pytest.mark.slow
def test_discriminator_joins(workspace: Path) -> None:
    values = {
        **TOKENIZER,
        "output": "adversarial",
        "loss": {"discriminator": {"start_step": 2, "channels": 4}},
    }
    entry = train_tokenizer(
        load_config(TokenizerRunConfig, write("adversarial.yaml", values), ["loop.steps=4"])
    )
    assert entry["discriminator"] > 0
    assert not any("discriminator" in name for name in load_image_tokenizer("adversarial/model").state_dict())


def test_checkpoint_of_another_model_is_refused(workspace: Path) -> None:
    with pytest.raises(SmaltiError, match="cannot be resumed with this configuration"):
        train_denoiser(
            load_config(DenoiserRunConfig, "denoiser.yaml", ["model.hidden_size=32", "loop.steps=8"])
        )
    assert (workspace / "denoiser" / "checkpoint-00000006" / "state.json").exists()


def test_full_disk_keeps_the_checkpoint_before(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smalti.training import state

    def full(tensors: dict, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(SmaltiError, match="cannot write checkpoint .*No space left on device"):
        train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", ["loop.steps=8"]))
    assert [path.name for path in (workspace / "denoiser").glob("checkpoint-*")] == ["checkpoint-00000006"]
    load_denoiser("denoiser/checkpoint-00000006/model")


@pytest.mark.slow
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
    assert sorted(TokenCache("own-cache").captions) == ["something blue", "something green", "something red"]
    load_denoiser("own/model")


@pytest.mark.slow
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
    with pytest.raises(SmaltiError, match="start_from: denoiser/model has another shape"):
        changes = ["output=other", "model.num_hidden_layers=2"]
        train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", overrides + changes))


@pytest.mark.slow
def test_networks_of_codes_are_trained_resumed_and_folded_into_the_model(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smalti.training import loop

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
    real = loop.save_checkpoint

    def dies_afterwards(*arguments: object) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", dies_afterwards)
    with pytest.raises(KeyboardInterrupt):
        train_denoiser(config)
    monkeypatch.setattr(loop, "save_checkpoint", real)
    train_denoiser(config)
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
    more = ["output=more", "start_from=grouped/model"]
    assert DenoiserTask(load_config(DenoiserRunConfig, "denoiser.yaml", more)).group_weights == {
        4: 0.2,
        8: 0.1,
    }
    too_many = load_config(DenoiserRunConfig, "denoiser.yaml", ["objective.group_weights={33: 1}"])
    with pytest.raises(SmaltiError, match="objective.group_weights must have at most 32 groups, .*not 33"):
        train_denoiser(too_many)


def test_training_can_see_the_grids_of_the_sampling_order(workspace: Path) -> None:
    overrides = ["output=ordered", "objective.ordered=1", "objective.flip_ratio=0"]
    with pytest.raises(SmaltiError, match="objective.ordered needs model.sampling.order .* not None"):
        DenoiserTask(load_config(DenoiserRunConfig, "denoiser.yaml", overrides))
    for name in ("halton", "stratified"):
        sampling = f"model.sampling={{order: {name}}}"
        task = DenoiserTask(load_config(DenoiserRunConfig, "denoiser.yaml", [*overrides, sampling]))
        masked = task.batch(0).masked.flatten(1)[:, list(task.order)]
        assert torch.equal(masked.sort(dim=1).values, masked)


@pytest.mark.slow
def test_a_decoder_can_learn_on_while_tokens_stay(workspace: Path) -> None:
    """A tokenizer of its own encoder and codes, which models and caches of the first one take for theirs."""
    more = ["start_from=denoiser/model", "decoder_only=true", "code_noise=0.3", "crop=16", "output=sharper"]
    train_tokenizer(load_config(TokenizerRunConfig, "tokenizer.yaml", [*more, "loop.batch_size=4"]))
    before, after = load_image_tokenizer("denoiser/model"), load_image_tokenizer("sharper/model")
    learned = {
        name.split(".")[0]
        for name, value in after.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    }
    assert learned == {"decoder", "post_quant_conv"}
    assert fingerprint(before) == fingerprint(after)
    DenoiserTask(
        load_config(
            DenoiserRunConfig, "denoiser.yaml", ["tokenizer=sharper/model", "start_from=denoiser/model"]
        )
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("decoder_only=true", "decoder_only needs start_from"),
        ("code_noise=0.1", "code_noise goes with decoder_only"),
        ("crop=12", r"crop must be a multiple of 8 up to data.size \(32\), not 12"),
        ("crop=40", r"crop must be a multiple of 8 up to data.size \(32\), not 40"),
    ],
)
def test_settings_of_a_tokenizer_that_do_not_fit_are_named(
    workspace: Path, override: str, message: str
) -> None:
    with pytest.raises(SmaltiError, match=message):
        TokenizerTask(load_config(TokenizerRunConfig, "tokenizer.yaml", [override]))


def test_the_busiest_part_of_a_picture_lies_on_the_grid() -> None:
    image = torch.zeros(3, 32, 48, dtype=torch.uint8)
    image[:, 20:28, 34:40] = 200
    generator = torch.Generator().manual_seed(0)
    part = busiest_part(image, 16, 8, generator, tries=60)
    assert int((part == 200).sum()) == 3 * 8 * 6
    places = [
        image[:, row : row + 16, column : column + 16] for row in (0, 8, 16) for column in range(0, 40, 8)
    ]
    assert any(torch.equal(part, place) for place in places)


def test_unknown_model_fields_are_named_before_anything_is_made(workspace: Path) -> None:
    with pytest.raises(SmaltiError, match="unknown key model.chh; known here: .*codebook_size"):
        train_tokenizer(load_config(TokenizerRunConfig, "tokenizer.yaml", ["model.chh=8", "output=new"]))
    overrides = ["model.hidden=8", "output=new", "cache.path=new-cache"]
    with pytest.raises(SmaltiError, match="unknown key model.hidden; known here: .*hidden_size"):
        train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", overrides))
    assert not Path("new").exists() and not Path("new-cache").exists()


def test_missing_device_is_named(workspace: Path) -> None:
    for kind, name, run in (
        (TokenizerRunConfig, "tokenizer", train_tokenizer),
        (DenoiserRunConfig, "denoiser", train_denoiser),
    ):
        with pytest.raises(SmaltiError, match="device must be one that PyTorch has here"):
            run(load_config(kind, f"{name}.yaml", ["loop.device=tpu9"]))


def test_cache_of_other_pictures_is_refused(workspace: Path) -> None:
    with pytest.raises(SmaltiError, match="cache of other pictures or another tokenizer"):
        train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", ["data.seed=5", "output=other"]))


def test_cache_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smalti.data.cache._PART", 4)
    drawn: list[int] = []

    def samples(fail_at: int | None = None):  # noqa: ANN202
        for index in range(100):
            if index == fail_at:
                raise KeyboardInterrupt
            drawn.append(index)
            yield {"image": torch.full((3, 2, 2), index, dtype=torch.uint8), "caption": f"picture {index}"}

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, 0].long()

    with pytest.raises(KeyboardInterrupt):
        build_cache(tmp_path, samples(fail_at=6), 10, encode, {"data": 1}, batch_size=3)
    with pytest.raises(SmaltiError, match="cache.json does not exist"):
        TokenCache(tmp_path)
    cache = build_cache(tmp_path, samples(), 10, encode, {"data": 1}, batch_size=3)
    assert [sample["caption"] for sample in (cache[i] for i in range(10))] == [
        f"picture {i}" for i in range(10)
    ]
    assert cache.tokens.dtype == torch.int32 and cache.tokens[:, 0, 0].tolist() == list(range(10))
    (tmp_path / "part-00001.npz").write_bytes(b"broken")
    with pytest.raises(SmaltiError, match="part-00001.npz is missing or damaged"):
        TokenCache(tmp_path)


def test_stream_of_shuffled_passes_can_be_entered_anywhere() -> None:
    whole = shuffled_indices(7, 0, 40, seed=3)
    assert all(sorted(whole[start : start + 7]) == list(range(7)) for start in range(0, 35, 7))
    assert whole[:7] != whole[7:14]
    assert shuffled_indices(7, 11, 9, seed=3) == whole[11:20]


def test_learning_rate_warms_up_and_decays() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[0] < 0.1 and max(rates) == pytest.approx(rates[10]) == pytest.approx(1.0)
    assert 0.1 <= rates[-1] < 0.11


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"loops": {}}, [], "unknown key loops; known here: output, seed"),
        ({}, ["optimizer.lr=1"], "unknown key optimizer.lr; known here: learning_rate"),
        ({}, ["loss.discriminator={start_step: 1, wait: 2}"], "unknown key loss.discriminator.wait"),
        ({}, ["loop.steps=many"], "loop.steps: .*not 'many'"),
        ({}, ["loop.steps=0"], "loop.steps: .*not 0"),
        ({}, ["steps"], "override must be key=value, not 'steps'"),
        ({}, ["output.folder=x"], "output is a value, not a section"),
        ({}, ["data.kind=videos"], "data.kind: "),
    ],
)
def test_configuration_errors_name_the_key(
    tmp_path: Path, changes: dict, overrides: list[str], message: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**TOKENIZER, **changes}))
    with pytest.raises(SmaltiError, match=message) as caught:
        load_config(TokenizerRunConfig, path, overrides)
    assert "\n" not in str(caught.value)


def test_overrides_read_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(TOKENIZER))
    config = load_config(TokenizerRunConfig, path, ["optimizer.learning_rate=1e-4", "loop.steps=9"])
    assert config.optimizer.learning_rate == 1e-4 and config.loop.steps == 9


@pytest.mark.parametrize("text", [None, "a: [", "- 1"])
def test_broken_configuration_files(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SmaltiError, match="config.yaml"):
        load_config(TokenizerRunConfig, path)


def test_shipped_configurations_are_valid() -> None:
    configs = Path(__file__).parents[2] / "configs"
    load_config(TokenizerRunConfig, configs / "scenes-tokenizer.yaml")
    load_config(DenoiserRunConfig, configs / "scenes.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_processes_share_the_batches_of_a_step(workspace: Path, processes: int) -> None:
    loop = {"batch_size": 2, "accumulate": 2, "processes": processes, "precision": "float32"}
    config = {**DENOISER, "output": "shared", "loop": {**DENOISER["loop"], **loop}}
    train_denoiser(load_config(DenoiserRunConfig, write("shared.yaml", config)))
    assert not torch.distributed.is_initialized()
    assert [step for step, _ in losses("shared")] == [1, 2, 3, 4, 5, 6]
    # The first losses have only rounding between them; what an optimizer makes of rounding grows.
    alone = {**DENOISER, "output": "alone", "loop": {**config["loop"], "processes": 1}}
    train_denoiser(load_config(DenoiserRunConfig, write("alone.yaml", alone)))
    found, expected = torch.tensor(losses("shared"))[:, 1], torch.tensor(losses("alone"))[:, 1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_processes_stop_resume_exactly_and_report_errors_once(workspace: Path) -> None:
    loop = {"steps": 40, "batch_size": 2, "accumulate": 2, "processes": 2, "checkpoint_every": 40}
    write("shared.yaml", {**DENOISER, "output": "shared", "loop": {**DENOISER["loop"], **loop}})
    train_denoiser(load_config(DenoiserRunConfig, "shared.yaml"))
    whole = losses("shared")
    shutil.rmtree("shared")
    process = subprocess.Popen([sys.executable, "-m", "smalti", "train", "shared.yaml"])
    deadline = time.monotonic() + 120
    while not Path("shared/log.jsonl").exists() or len(losses("shared")) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert 2 <= len(losses("shared")) < 40
    train_denoiser(load_config(DenoiserRunConfig, "shared.yaml"))
    assert losses("shared") == whole
    with pytest.raises(SmaltiError, match="cannot be resumed"):
        train_denoiser(load_config(DenoiserRunConfig, "shared.yaml", ["model.hidden_size=32"]))
    assert not torch.distributed.is_initialized()


def test_processes_must_divide_the_batches(workspace: Path) -> None:
    with pytest.raises(SmaltiError, match=r"loop.processes: .*must divide loop.accumulate \(3\), not 2"):
        load_config(DenoiserRunConfig, "denoiser.yaml", ["loop.accumulate=3", "loop.processes=2"])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="needs a C++ compiler")
def test_compiled_layers_learn_the_same(workspace: Path) -> None:
    train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", ["output=compiled", "compile=true"]))
    torch.compiler.reset()
    for (step, found), (_, expected) in zip(losses("compiled"), losses("denoiser"), strict=True):
        assert found == pytest.approx(expected, abs=2e-2), step
    load_denoiser("compiled/model")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_on_the_same_batches(workspace: Path) -> None:
    for place in ("cuda", "cpu"):
        for steps in (6, 8):  # the second goes on from the first
            overrides = [
                f"output={place}",
                f"loop.device={place}",
                "loop.precision=float32",
                f"loop.steps={steps}",
            ]
            train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", [*overrides, "code_network=8"]))
    for (step, found), (_, expected) in zip(losses("cuda"), losses("cpu"), strict=True):
        assert found == pytest.approx(expected, abs=1e-3), step


@pytest.mark.slow
def test_drafts_are_made_after_the_warm_up_and_every_weight_still_learns(workspace: Path) -> None:
    overrides = ["output=drafted", "objective.drafts={share: 1.0, passes: 2, start_step: 3}"]
    config = load_config(DenoiserRunConfig, "denoiser.yaml", overrides)
    train_denoiser(config)
    entries = [json.loads(line) for line in Path("drafted/log.jsonl").read_text().splitlines()]
    assert losses("drafted")[:3] == losses("denoiser")[:3]
    assert all(a != b for a, b in zip(losses("drafted")[3:], losses("denoiser")[3:], strict=True))
    assert [entry["drafts_right"] for entry in entries[:3]] == [0, 0, 0]
    task = DenoiserTask(config)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = task.loss(task.batch(0), 0, 3)
    total.backward()
    assert all(parameter.grad is not None for parameter in task.model.parameters())


def test_prompts_encoded_ahead_are_those_of_their_batch(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(DenoiserRunConfig, "denoiser.yaml", ["output=ahead"])
    ahead = DenoiserTask(config)
    monkeypatch.setattr("smalti.training.denoiser._IDS_AHEAD", 0)
    by_batch = DenoiserTask(config)
    assert ahead.encoded is not None and by_batch.encoded is None
    for index in range(3):
        assert torch.equal(ahead.batch(index).prompt.ids, by_batch.batch(index).prompt.ids)
        assert torch.equal(ahead.batch(index).prompt.slot_start, by_batch.batch(index).prompt.slot_start)


def test_the_mix_of_scenes_is_the_configurations(workspace: Path) -> None:
    overrides = ["output=mixed", "cache.path=mixed-cache", "data.mix={counting: 1}"]
    captions = DenoiserTask(load_config(DenoiserRunConfig, "denoiser.yaml", overrides)).cache.captions
    assert all(any(number in caption for number in ("two", "three", "four")) for caption in captions)
    with pytest.raises(SmaltiError, match="mix must weight some of"):
        DenoiserTask(
            load_config(DenoiserRunConfig, "denoiser.yaml", ["cache.path=other", "data.mix={circles: 1}"])
        )
