"""Text files with limits, JSON from anyone, atomic writing."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import pytest

from smalti.common.arrays import ArrayFile
from smalti.common.files import (
    _delete_old,
    atomic_path,
    parse_json,
    read_json,
    read_json_lines,
    read_text,
    write_text_atomic,
)
from smalti.errors import SmaltiError


def test_text_drops_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(SmaltiError, match="config.json is not a regular file"):
        read_json(tmp_path / "config.json")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_device_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(SmaltiError, match="is not a regular file"):
        read_json(tmp_path / "config.json")


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("12345")
    assert read_text(tmp_path / "words.txt", limit=5) == "12345"
    with pytest.raises(SmaltiError, match="must have at most 4 bytes"):
        read_text(tmp_path / "words.txt", limit=4)


@pytest.mark.parametrize("name", ["", "no", "a\0b"])
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(SmaltiError) as caught:
        read_text(f"{tmp_path}/{name}")
    assert len(str(caught.value).splitlines()) == 1


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(SmaltiError, match=r"a\.txt: it is not utf-8 text"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000])
def test_deep_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(text, "this text")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SmaltiError, match=r"a\.json is not JSON: it is nested too deeply"):
        read_json(tmp_path / "a.json")


def test_old_temporary_files_of_ours_are_deleted(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.png") as temporary:
        ours = tmp_path / temporary.name
    fresh, others = tmp_path / ".x.smalti-abcdefgh.png", tmp_path / ".x.abcdefgh.png"
    for path in (ours, fresh, others):
        path.touch()
    old = time.time() - 25 * 3600
    os.utime(ours, (old, old))
    os.utime(others, (old, old))
    _delete_old.cache_clear()
    write_text_atomic(tmp_path / "new.json", "1")
    assert {path.name for path in tmp_path.iterdir()} == {fresh.name, others.name, "x.png", "new.json"}


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".json")
    write_text_atomic(path, "1")
    assert path.read_text() == "1"


def test_a_small_file_takes_little_room_whatever_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"[1]\n" * 3)
    tracemalloc.start()
    try:
        assert len(list(read_json_lines(path))) == 3
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_files_of_the_system_are_read() -> None:
    path = Path("/proc/self/status")
    if not path.exists():
        pytest.skip("a system without /proc")
    assert "Name:" in read_text(path)


def test_a_pipe_among_arrays_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "index.safetensors")
    with pytest.raises(SmaltiError, match="index.safetensors is not a regular file"):
        ArrayFile(tmp_path / "index.safetensors")
