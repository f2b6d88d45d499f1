"""Whole model folders: a model that was there stays whole until the new one is complete."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import write_tiny_model

import smalti
from smalti.storage import weights as weights_module
from smalti.storage.loading import Components
from smalti.storage.saving import save_model


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def save(parts: Components, folder: Path, text: str, words: set[str]) -> None:
    save_model(parts.denoiser, parts.image_tokenizer, text, folder, words=words)


@pytest.mark.parametrize("there", [True, False])
def test_a_stop_while_the_denoiser_is_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    model = write_tiny_model(tmp_path / "model")
    parts = smalti.load(model).components
    text = (model / "tokenizer.json").read_text(encoding="utf-8")
    target = tmp_path / "target"
    if there:
        save(parts, target, text, {"old"})
    before = contents(target)

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(weights_module, "save_file", stop)
        with pytest.raises(KeyboardInterrupt):
            save(parts, target, text + " ", {"new"})
    assert contents(target) == before
    save(parts, target, text + " ", {"new"})
    assert (target / "words.txt").read_text() == "new\n"
    assert contents(target)["model.safetensors"] == contents(model)["model.safetensors"]
