"""Trainings on a folder of one's own images: what the cache is keyed by, and captions that are too long."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from trainings import DENOISER, write

from smalti.errors import SmaltiError
from smalti.model.prompt import PromptBatch
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import DenoiserTask, train_denoiser
from smalti.training.preparing import DenoiserParts, prepare
from smalti.training.reading import load_config

pytestmark = pytest.mark.slow


@pytest.fixture
def images(workspace: Path) -> Path:
    folder = workspace / "images"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), (80 * number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"image number {number}")
    data = {"kind": "folder", "path": "images", "size": 32}
    write(
        "folder.yaml",
        {**DENOISER, "output": "new", "data": data, "cache": {"path": "new-cache", "samples": 3}},
    )
    return folder


def prepared(*overrides: str) -> DenoiserParts:
    return prepare(load_config(DenoiserRunConfig, "folder.yaml", list(overrides)))


def captions(parts: DenoiserParts) -> list[str]:
    return list(parts.tokens.images.all_captions())


def test_other_captions_at_a_resume_are_refused_before_the_cache_is_blamed(images: Path) -> None:
    def train(steps: int) -> None:
        train_denoiser(
            load_config(DenoiserRunConfig, "folder.yaml", [f"loop.steps={steps}", "output=resumed"])
        )

    train(1)
    (images / "1.txt").write_text("another caption")
    for _ in range(2):
        with pytest.raises(
            SmaltiError, match="cannot be resumed: it was trained on other images or captions"
        ):
            train(2)
        shutil.rmtree("new-cache", ignore_errors=True)
    assert not list(Path().glob("new-cache/shard-*"))


def test_a_wrong_second_set_is_refused_before_the_first_is_encoded(images: Path) -> None:
    second = Path("second")
    second.mkdir()
    Image.new("RGB", (32, 32)).save(second / "a.png")
    changes = ["regularization={path: second}", "cache.path=fresh", "model.max_prompt_tokens=9"]
    with pytest.raises(SmaltiError, match="regularization: .*a.png has no caption"):
        prepared(*changes)
    (second / "a.txt").write_text("word " * 99)
    with pytest.raises(SmaltiError, match="the caption of .*a.png: it must be at most 9 text tokens long"):
        prepared(*changes)
    assert not list(Path().glob("fresh/shard-*"))


def test_a_cache_is_of_these_files(images: Path) -> None:
    assert captions(prepared()) == [f"image number {number}" for number in range(3)]
    assert len(prepared().tokens.images) == 3
    (images / "1.txt").write_text("another caption")
    with pytest.raises(
        SmaltiError, match="cache.path: new-cache holds a cache of other images: its files differ"
    ):
        prepared()
    (images / "1.txt").write_text("image number 1")
    assert len(prepared().tokens.images) == 3
    os.utime(images / "2.png", ns=(1, 1))
    with pytest.raises(SmaltiError, match="its files differ"):
        prepared()


def test_a_file_in_front_is_seen_while_encoding_is_interrupted(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smalti.data.encoding.SHARD_IMAGES", 1)
    real, calls = Image.open, []

    def interrupted(path: Path) -> Image.Image:
        calls.append(path)
        if len(calls) == 5:  # three headers, then the second image
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepared()
    assert Path("new-cache/shard-00000.safetensors").exists() and not Path("new-cache/tokens.json").exists()
    Image.new("RGB", (32, 32)).save(images / "0.5.png")
    (images / "0.5.txt").write_text("one more")
    with pytest.raises(SmaltiError, match="its files differ"):
        prepared()
    (images / "0.5.png").unlink()
    assert captions(prepared()) == [f"image number {number}" for number in range(3)]


def test_images_beyond_the_cache_are_noted(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(prepared("cache.samples=2").tokens.images) == 2
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["cache.samples is 2: the other 1 of the 3 images are not trained on"]


def test_long_captions_are_found_before_anything_is_encoded(images: Path) -> None:
    (images / "1.txt").write_text("one two three four five six seven eight nine ten")
    with pytest.raises(
        SmaltiError, match=r"the caption of images/1.png: it must be at most 9 .* not \d+; text.cut"
    ):
        prepared("model.max_prompt_tokens=9")
    assert not Path("new-cache/started.json").exists()
    overrides = ["model.max_prompt_tokens=9", "text.cut_captions=true", "preview_prompts=[a]"]
    overrides += ["validation.images=0"]
    found = prompts(*overrides)
    most = found.slots + 10  # and <|im_end|>
    assert int(found.lengths[1]) == most
    (images / "1.txt").write_text("x" * 3 + "yz" * 40)
    assert found.slots < int(prompts(*overrides, "cache.path=third").lengths[1]) <= most


def prompts(*overrides: str) -> PromptBatch:
    """All captions as prompts, as they are encoded before the training."""
    config = load_config(DenoiserRunConfig, "folder.yaml", list(overrides))
    encoded = DenoiserTask(config, prepare(config)).captions.encoded
    assert encoded is not None
    return encoded


def test_the_text_tokenizer_is_of_these_captions(images: Path) -> None:
    first = prepared("cache.path=one").text_json
    for path in [*Path("one").glob("shard*"), Path("one/tokens.json"), Path("one/started.json")]:
        path.unlink()
    for number in range(3):
        (images / f"{number}.txt").write_text("completely different words, completely different letters")
    assert prepared("cache.path=one").text_json != first


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokenizer=nope", "tokenizer: model folder nope does not exist"),
        ("start_from=nope", "start_from: model folder nope does not exist"),
        ("start_from=tokenizer/model", "start_from: "),
        ("cache.path=/dev/null", "cache.path: cannot write /dev/null"),
        ("data.path=nope", "data: nope is not a folder"),
        (f"preview_prompts=[{'word ' * 3000}]", "preview_prompts: prompt must be at most"),
    ],
)
def test_what_is_missing_is_named_by_its_key(images: Path, override: str, message: str) -> None:
    with pytest.raises(SmaltiError, match=message):
        train_denoiser(load_config(DenoiserRunConfig, "folder.yaml", [override, "loop.steps=1"]))
