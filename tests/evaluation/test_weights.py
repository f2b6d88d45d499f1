"""Weights of scorers: what a fetch is announced as, and what is no scorer."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from smalti.errors import SmaltiError
from smalti.evaluation.prompts import find_prompts
from smalti.evaluation.weights import find_weights, package_versions, readable, revision_of


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """A hub with one model of two useful files and one of code; the calls of its downloads."""
    calls: list[tuple[Any, ...]] = []
    folder = tmp_path / "snapshots" / "0a1b2c"

    def download(
        name: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool, repo_type: str
    ) -> str:
        calls.append((name, revision, local_files_only))
        if repo_type == "dataset" and not local_files_only:
            (folder / "lists").mkdir(parents=True)
            (folder / "lists" / "photo.json").write_text('["a cat", "a dog"]')
            return str(folder)
        if local_files_only and not folder.exists():
            raise FileNotFoundError("not in the cache")
        if name == "some/prompts":
            return str(folder)
        if name != "some/scorer":
            raise ConnectionError("no such model\nand more")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes(b"")
        return str(folder)

    def info(self: object, name: str, revision: str | None, files_metadata: bool) -> Any:
        names = {"model.safetensors": 250_000_000, "config.json": 3_000, "pytorch_model.bin": 250_000_000}
        files = [SimpleNamespace(rfilename=name, size=size) for name, size in names.items()]
        return SimpleNamespace(sha="0a1b2c", siblings=files, card_data={"license": "mit"})

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    find_weights.cache_clear()
    return calls


def test_a_fetch_is_announced_once(hub: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "smalti"):
        folder = find_weights("vqa", "some/scorer@v1", "some/other")
    assert [record.getMessage() for record in caplog.records] == [
        "fetching some/scorer at 0a1b2c: 250 MB, licence mit"
    ]
    assert hub == [("some/scorer", "v1", True), ("some/scorer", "v1", False)]
    assert revision_of("some/scorer@v1", folder) == "0a1b2c"
    # What is in the cache is fetched and announced no more.
    caplog.clear()
    find_weights.cache_clear()
    assert find_weights("vqa", "some/scorer@v1", "some/other") == folder and not caplog.records
    assert hub[2:] == [("some/scorer", "v1", True)]


def test_prompts_come_from_a_data_set(hub: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "smalti"):
        for _ in range(2):
            prompts = find_prompts("some/prompts:lists@v2")
    assert prompts == [
        {"category": "photo", "name": "00000", "prompt": "a cat"},
        {"category": "photo", "name": "00001", "prompt": "a dog"},
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "fetching some/prompts at 0a1b2c: 0 MB, licence mit"
    ]
    assert hub == [("some/prompts", "v2", cached) for cached in (True, False, True)]


def test_what_the_hub_lacks_is_one_line(hub: list[tuple[Any, ...]]) -> None:
    with pytest.raises(SmaltiError, match="vqa no/model cannot be fetched .*: no such model$"):
        find_weights("vqa", "no/model", "some/other")
    for text in ("", "missing", "../x/y"):
        with pytest.raises(
            SmaltiError, match="vqa must be a folder with config.json or a hub id such as some/other"
        ):
            find_weights("vqa", text, "some/other")
    assert [name for name, *_ in hub] == ["no/model", "no/model"]


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert find_weights("clip", str(tmp_path), "some/other") == tmp_path
    assert revision_of(str(tmp_path), tmp_path) == "folder"
    assert {"smalti", "torch", "numpy"} <= package_versions().keys()


@pytest.mark.parametrize(("error", "said"), [(KeyError(), "KeyError"), (ValueError("no\nweights"), "no$")])
def test_weights_that_cannot_be_read_are_one_line(error: Exception, said: str) -> None:
    with (
        pytest.raises(SmaltiError, match=f"^clip folder cannot be read: {said}") as raised,
        readable("clip", "folder"),
    ):
        raise error
    assert raised.value.argument == "clip"
