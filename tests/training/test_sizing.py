"""A training whose numbers are out of reach is refused before anything is read, built or allocated."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn
from trainings import DENOISER, TOKENIZER

from smalti.common.files import write_json_atomic
from smalti.errors import SmaltiError
from smalti.training import preparing
from smalti.training.config import DenoiserRunConfig, TokenizerRunConfig
from smalti.training.reading import load_config
from smalti.training.sizing import check_room, check_shapes, outline


@pytest.mark.parametrize(
    "change",
    [
        "loop.steps=9223372036854775808",
        "loop.batch_size=2147483648",
        "loop.accumulate=2147483648",
        "optimizer.warmup_steps=2147483648",
        "cache.samples=2147483648",
        "text.vocab_size=2147483648",
        "text.captions=2147483648",
        "code_network=2147483648",
    ],
)
def test_numbers_have_limits(tmp_path: Path, change: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(DENOISER))
    key, _, value = change.partition("=")
    with pytest.raises(SmaltiError, match=f"{key}: input should be less than or equal to .*, not {value}"):
        load_config(DenoiserRunConfig, path, [change])


def test_so_has_the_discriminator(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(TOKENIZER))
    change = "loss.discriminator={start_step: 0, channels: 2147483648}"
    with pytest.raises(SmaltiError, match="loss.discriminator.channels: input should be less than or equal"):
        load_config(TokenizerRunConfig, path, [change])


def test_a_model_must_fit_into_the_memory() -> None:
    shapes = outline(lambda: nn.Linear(10**6, 10**6, bias=False))
    assert shapes == {"weight": (10**6, 10**6)}
    with pytest.raises(
        SmaltiError, match=r"1,000,000,000,000 parameters need 20000.0 GB in training, and 16.0 GB"
    ):
        check_room(shapes, torch.device("cpu"), 16 * 10**9)
    check_room({"weight": (1000, 1000)}, torch.device("cpu"), 20_000_000)
    check_room({"weight": (1000, 1000)}, torch.device("cuda"), 4_000_000)


def test_an_outline_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    outline(lambda: nn.Sequential(nn.Linear(3, 4), nn.Embedding(5, 6), nn.Conv2d(1, 2, 3)))
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_another_shape_are_named() -> None:
    with pytest.raises(
        SmaltiError, match=r"start_from: a must have the shape .* but x is \(3,\), not \(2,\)"
    ):
        check_shapes({"x": (2,)}, {"x": (3,)}, "a")
    with pytest.raises(SmaltiError, match=r"but y is missing, not \(1,\)"):
        check_shapes({"x": (2,), "y": (1,)}, {"x": (2,)}, "a")


def test_a_small_folder_that_is_repeated_often_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    class Folder(preparing.ImageFolder):
        def __init__(self) -> None:
            self.samples = [(Path("a.png"), ("a red circle",)), (Path("b.png"), ("two dogs",))]

    def find(config: DenoiserRunConfig, texts: Iterator[str]) -> Path:
        seen.append(list(islice(texts, config.text.captions)))
        raise SmaltiError("enough")

    monkeypatch.setattr(preparing, "find_text_tokenizer", find)
    monkeypatch.chdir(tmp_path)
    write_json_atomic("config.yaml", DENOISER)
    config = load_config(DenoiserRunConfig, "config.yaml", ["cache.samples=100000000", "text.captions=5"])
    with pytest.raises(SmaltiError, match="enough"):
        preparing.check_folder_captions(config, SimpleNamespace(source=Folder(), second=None))  # type: ignore[arg-type]
    assert seen == [["a red circle", "two dogs", "a red circle", "two dogs", "a red circle"]]


def test_an_empty_model_is_not_the_reference_models(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**TOKENIZER, "model": {}}))
    message = "model: must have at least one field of the image tokenizer, such as ch, not {}"
    with pytest.raises(SmaltiError, match=message):
        load_config(TokenizerRunConfig, path)
