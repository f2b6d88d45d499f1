"""Training configurations: overrides, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from trainings import DENOISER, TOKENIZER

from smalti.errors import SmaltiError
from smalti.training.config import DenoiserRunConfig, TokenizerRunConfig
from smalti.training.denoiser import train_denoiser
from smalti.training.reading import load_config
from smalti.training.tokenizer import train_tokenizer


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"loops": {}}, [], "unknown key loops; known here: output, seed"),
        ({}, ["optimizer.lr=1"], "unknown key optimizer.lr; known here: kind"),
        ({}, ["loss.discriminator={start_step: 1, wait: 2}"], "unknown key loss.discriminator.wait"),
        ({}, ["loop.steps=many"], "loop.steps: .*not 'many'"),
        ({}, ["loop.steps=0"], "loop.steps: .*not 0"),
        ({}, ["steps"], "override must be key=value, not 'steps'"),
        ({}, ["output.folder=x"], "output is a value, not a section"),
        (
            {},
            ["data.kind=videos"],
            "data.kind: must be 'folder', 'objects', 'scenes', 'shards', 'tokens', not",
        ),
        ({}, ["data.path=images"], "unknown key data.path; known here: kind, size, seed, lattice"),
        ({}, ["data={kind: folder, size: 32}"], "config.yaml: data.path is missing"),
        (
            {},
            ["data={kind: folder, path: x, blobs: 1}"],
            "unknown key data.blobs; known here: kind, path, size",
        ),
        ({}, ["data.mix={counting: -1}"], "data.mix.counting: .* greater than or equal to 0, not -1"),
        ({}, ["data=3"], "data: .*not 3"),
        ({}, ["loss.l1=.inf"], "loss.l1: .*finite number, not inf"),
        ({}, ["optimizer.weight_decay=.inf"], "optimizer.weight_decay: .*finite number, not inf"),
        ({}, ["optimizer.learning_rate=.nan"], "optimizer.learning_rate: .*, not nan"),
        ({}, ["optimizer.betas=[1,1]"], "optimizer.betas.0: .*less than 1, not 1"),
        ({}, ["optimizer.ema_decay=1"], "optimizer.ema_decay: .*less than 1, not 1"),
        ({}, ['output="\\0"'], r"output: .*without NUL, not '\\x00'"),
        ({}, ['output=""'], "output: .*not blank"),
        ({}, ['loop.device="\\0"'], "loop.device: .*without NUL"),
        ({}, ["data={kind: folder, path: ' '}"], "data.path: .*not blank"),
        ({}, ["loop.processes=1000"], "loop.processes: .*less than or equal to 256, not 1000"),
        ({}, ["loop.memory=" + "9" * 400 + "GB"], "loop.memory: memory must be a size such as 8GB"),
        ({}, ["loop.steps=1:30"], "loop.steps: .*not '1:30'"),
        ({}, ["seed=" + "9" * 5000], "override 'seed=9+…: the value is not YAML: a number is too long"),
        ({}, ["optimizer.learning_rate=" + "9" * 390], "optimizer.learning_rate: .*, not 9+…"),
        ({}, ["output=[" + "x, " * 3000 + "]"], "output: .*not .'x', .*…"),
        ({}, ["seed=" + "[" * 100_000], "the value is nested too deeply: at most 40 levels"),
        (
            {},
            ["loop={steps: 1, batch_size: 2, steps: 3}"],
            "the key 'steps' is given twice .line 1, column 27.",
        ),
    ],
)
def test_configuration_errors_name_the_key(
    tmp_path: Path, changes: dict, overrides: list[str], message: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**TOKENIZER, **changes}))
    with pytest.raises(SmaltiError, match=message) as caught:
        load_config(TokenizerRunConfig, path, overrides)
    assert "\n" not in str(caught.value) and len(str(caught.value)) - len(str(path)) < 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("preview_prompts=['']", "preview_prompts.0: .*not blank"),
        ("preview_prompts=[]", "preview_prompts: .*at least 1 item"),
        ("cache.path=''", "cache.path: .*not blank"),
        ('tokenizer="a\\0"', "tokenizer: .*without NUL"),
        ("start_from=''", "start_from: .*not blank"),
    ],
)
def test_names_and_prompts_are_not_blank(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(DENOISER))
    with pytest.raises(SmaltiError, match=message):
        load_config(DenoiserRunConfig, path, [change])


def test_overrides_read_numbers_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(TOKENIZER))
    config = load_config(TokenizerRunConfig, path, ["optimizer.learning_rate=1e-4", "loop.steps=9"])
    assert config.optimizer.learning_rate == 1e-4 and config.loop.steps == 9


@pytest.mark.parametrize(
    "text",
    [
        None,
        "a: [",
        "- 1",
        "",
        "a: 1\nb: {c: 1, c: 2}",
        "a: &a [*a]",
        "a: *b",
        "? [1]\n: 2",
        "\0",
        "a: !!bool x",
    ],
)
def test_broken_configuration_files(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SmaltiError, match="config.yaml"):
        load_config(TokenizerRunConfig, path)


@pytest.mark.parametrize(
    ("masking", "message"),
    [
        ("{uniform: 0.9}", "objective.masking: masking shares must add up to 1, not 0.9"),
        ("{}", "objective.masking: masking shares must add up to 1, not 0"),
        ("{uniform: 1.5, box: -0.5}", "objective.masking.box: .*greater than or equal to 0, not -0.5"),
        ("{circle: 1}", "objective.masking: masking must be 'uniform' or .*'box', not 'circle'"),
        ('{"ordered:order=random": 1}', "objective.masking: masking 'ordered': order must be 'halton' or"),
        ('{"uniform:power=0": 1}', "objective.masking: masking 'uniform': power must be .*above 0, not 0"),
    ],
)
def test_masking_errors_name_the_key(tmp_path: Path, masking: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(DENOISER))
    with pytest.raises(SmaltiError, match=message) as caught:
        load_config(DenoiserRunConfig, path, [f"objective.masking={masking}"])
    assert "\n" not in str(caught.value)


def test_shipped_configurations_are_valid() -> None:
    configs = Path(__file__).parents[2] / "configs"
    for path in configs.glob("*.yaml"):
        load_config(TokenizerRunConfig if "tokenizer" in path.name else DenoiserRunConfig, path)


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
