"""Averages of models: `smalti average`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from folders import write_tiny_model
from safetensors.torch import load_file, save_file
from tiny import GOLDEN, tiny_denoiser

import smalti
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.model.words import WORDS_FILE
from smalti.storage.averaging import average_models
from smalti.storage.folder import save_denoiser


def write_other(
    folder: Path, model: Path, seed: int = 1, dtype: torch.dtype | None = None, **changes: object
) -> Path:
    """The same model with other weights."""
    shutil.copytree(model, folder)
    save_denoiser(tiny_denoiser(seed, image_size=64, mm_vqvae="vq", **changes), folder, dtype=dtype)
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "first")


@pytest.fixture(scope="module")
def second(first: Path) -> Path:
    return write_other(first.parent / "second", first, sampling={"num_inference_steps": 3})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_every_weight_lies_between_the_two(first: Path, second: Path, tmp_path: Path, share: float) -> None:
    average_models(first, second, tmp_path / "made", share=share)
    ours, theirs, made = weights(first), weights(second), weights(tmp_path / "made")
    assert made.keys() == ours.keys()
    for name, weight in made.items():
        torch.testing.assert_close(weight, (1 - share) * ours[name] + share * theirs[name])
    if share in (0, 1):
        ends = (ours, theirs)[share]
        assert all(torch.equal(weight, ends[name]) for name, weight in made.items())


def test_all_else_is_the_firsts(first: Path, second: Path, tmp_path: Path) -> None:
    average_models(first, second, tmp_path / "made")
    for name in ("config.json", "tokenizer.json", "vq/config.json", "vq/model.safetensors"):
        assert (tmp_path / "made" / name).read_bytes() == (first / name).read_bytes(), name
    smalti.load(tmp_path / "made")("a red circle", num_inference_steps=2, seed=0)


def test_the_dtype_is_the_firsts_and_sums_are_not_in_it(first: Path, second: Path, tmp_path: Path) -> None:
    half = write_other(tmp_path / "half", first, seed=2, dtype=torch.bfloat16)
    average_models(half, second, tmp_path / "made", share=0.5)
    ours, theirs = weights(half), weights(second)
    for name, weight in weights(tmp_path / "made").items():
        assert weight.dtype == torch.bfloat16
        # Half a unit in the last place: rounded once.
        exact = (ours[name].double() + theirs[name].double()) / 2
        torch.testing.assert_close(weight.double(), exact, rtol=2**-8 + 1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [("a\nred\n", "a\nzebra\n", "a\nred\nzebra\n"), (None, "b\na\n", "a\nb\n"), (None, None, None)],
)
def test_words_are_those_of_both(
    first: Path, second: Path, tmp_path: Path, ours: str | None, theirs: str | None, expected: str | None
) -> None:
    pair = [shutil.copytree(model, tmp_path / model.name) for model in (first, second)]
    for model, words in zip(pair, (ours, theirs), strict=True):
        if words is not None:
            (model / WORDS_FILE).write_text(words)
    made = tmp_path / "made"
    average_models(*pair, made)
    found = (made / WORDS_FILE).read_text() if (made / WORDS_FILE).exists() else None
    assert found == expected


def test_it_may_be_written_over_another_model_and_in_shards(
    first: Path, second: Path, tmp_path: Path
) -> None:
    average_models(first, second, tmp_path / "made")
    mine = shutil.copytree(second, tmp_path / "mine")
    average_models(first, second, mine, max_shard_bytes=20_000)
    shards = sorted(mine.glob("model-*.safetensors"))
    assert len(shards) > 1 and not (mine / "model.safetensors").exists()
    found = {name: weight for shard in shards for name, weight in load_file(shard).items()}
    assert all(torch.equal(found[name], weight) for name, weight in weights(tmp_path / "made").items())
    # Shards are read as well as written.
    average_models(mine, second, tmp_path / "again")


def test_models_that_do_not_go_together(first: Path, second: Path, tmp_path: Path) -> None:
    deeper = write_other(tmp_path / "deeper", first, num_hidden_layers=3)
    with pytest.raises(SmaltiError, match="one architecture, but num_hidden_layers is 2 and 3"):
        average_models(first, deeper, tmp_path / "made")
    codes = shutil.copytree(second, tmp_path / "codes")
    tensors = {
        name: weight.float().mul(2) for name, weight in load_file(codes / "vq" / "model.safetensors").items()
    }
    save_file(tensors, codes / "vq" / "model.safetensors")
    with pytest.raises(SmaltiError, match="same image codes"):
        average_models(first, codes, tmp_path / "made")
    words = shutil.copytree(second, tmp_path / "words")
    text = json.loads((GOLDEN / "tokenizer.json").read_text())
    (words / "tokenizer.json").write_text(json.dumps({**text, "truncation": None}, indent=1))
    with pytest.raises(SmaltiError, match=r"same tokenizer\.json"):
        average_models(first, words, tmp_path / "made")
    with pytest.raises(SmaltiError, match="share must be"):
        average_models(first, second, tmp_path / "made", share=1.5)
    assert not (tmp_path / "made").exists()


def test_the_command(first: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made"
    assert main(["average", str(first), str(second), "--share", "0.25", "-o", str(made), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(made), "share": 0.25}
    average_models(first, second, tmp_path / "same", share=0.25)
    assert (made / "model.safetensors").read_bytes() == (tmp_path / "same" / "model.safetensors").read_bytes()
    before = (made / "model.safetensors").read_bytes()
    assert main(["average", str(first), str(tmp_path / "none"), "-o", str(made)]) == 2
    assert main(["average", str(first), str(second), "--share", "2", "-o", str(made)]) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(SmaltiError, match="cannot write"):
        average_models(first, second, tmp_path / "file")
    assert main(["average", str(first), str(second), "-o", str(tmp_path / "file")]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("smalti: ")
    assert (made / "model.safetensors").read_bytes() == before


def test_a_disk_without_room_is_found_before_anything_is_written(
    first: Path,
    second: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    made = tmp_path / "new" / "made"
    assert main(["average", str(first), str(second), "-o", str(made)]) == 2
    line = capsys.readouterr().err
    assert (
        line.startswith("smalti: -o ") and "must have room for 0.4 MB" in line and "0.1 MB are free" in line
    )
    assert not made.parent.exists()
