"""Text and JSON as people's editors write them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from smalti.common.files import parse_json, read_json_lines, read_text, write_text_atomic
from smalti.errors import SmaltiError
from smalti.evaluation.folder import read_prompts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("größer ★\r\n".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "größer ★\n"
    line = json.dumps({"prompt": "größer ★"}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_bytes(f"{line}\r\n".encode(encoding))
    assert read_prompts(tmp_path / "a.jsonl") == [{"prompt": "größer ★"}]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_lines_end_at_newlines_only(tmp_path: Path, character: str) -> None:
    line = json.dumps({"prompt": f"a{character}b"}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"\n{line}\n\n{line}", encoding="utf-8")
    assert [number for number, _ in read_json_lines(tmp_path / "a.jsonl")] == [2, 4]
    assert read_prompts(tmp_path / "a.jsonl") == [{"prompt": f"a{character}b"}] * 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"prompt": "a"}\n{', "line 2 is not JSON"),
        (b"[" * 100_000, "line 1 is not JSON: it is nested too deeply"),
        (b"1" * 5000, "line 1 is not JSON"),
        (b"\xff\xfe\xff", "it is not utf-16.* text"),
        (b'"\xff"', "it is not utf-8 text"),
    ],
)
def test_wrong_lines_are_one_short_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(SmaltiError, match=reason) as caught:
        list(read_json_lines(path))
    assert str(path) in str(caught.value) and len(str(caught.value)) - len(str(path)) < 200


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(SmaltiError, match="is not a regular file"):
            read_text(path)
    for name in ("none", "a\0b"):
        with pytest.raises(SmaltiError, match="does not exist|cannot read"):
            read_text(tmp_path / name)
    with pytest.raises(SmaltiError, match="the header is not JSON"):
        parse_json("nope", "the header")


@pytest.mark.skipif(os.name == "nt", reason="asks for the mode as Unix has it")
def test_files_are_synchronised_while_they_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to synchronise a file that is open for reading alone."""
    import fcntl

    modes = []
    monkeypatch.setattr(
        os, "fsync", lambda file: modes.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE)
    )
    write_text_atomic(tmp_path / "a.txt", "a")
    assert modes == [os.O_RDWR]


def test_a_file_that_another_program_holds_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to rename over a file that is open."""
    (tmp_path / "a.txt").write_text("before")

    def refuse(source: object, target: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(SmaltiError, match=r"cannot write .*a\.txt: Permission denied"):
        write_text_atomic(tmp_path / "a.txt", "after")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "before")]
