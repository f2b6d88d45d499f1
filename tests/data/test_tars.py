"""Tar shards in WebDataset's layout: read by an index, written, damaged."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smalti.cli.main import main
from smalti.data.folder import ImageFolder
from smalti.data.images import ChangedFilesError
from smalti.data.packing import Packed, folder_images, world_images, write_tars
from smalti.data.tars import TarShards
from smalti.errors import SmaltiError
from smalti.worlds.scenes.world import Scenes


def png(color: object = "red", size: tuple[int, int] = (20, 16), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def test_a_tar_as_other_tools_write_it(tmp_path: Path) -> None:
    long = "a-very-long-folder/" * 8 + "0003"
    members = {
        "./0001.JPG.txt": b"no sample",
        "0001.txt": b"\xef\xbb\xbfone\n  red",
        "0001.png": png("red"),
        "0001.json": json.dumps({"caption": ["one red", "crimson"], "alt": "rouge"}).encode(),
        "0001.cls": b"3",
        "sub/0001.png": png("blue"),
        "sub/0001.json": json.dumps({"caption": "größer", "alt": 7}).encode(),
        "0002.txt": b"a text alone",
        f"{long}.webp": png("lime"),
        f"{long}.txt": "green ★".encode(),
        "__notes__": b"x",
    }
    write_tar(tmp_path / "b" / "1.tar", members)
    write_tar(tmp_path / "a.tar", {"x.png": png("white"), "x.txt": b"white"}, format=tarfile.GNU_FORMAT)
    shards = TarShards(tmp_path, 16)
    assert len(shards) == shards.length == 4
    assert [sample["image"][:, 8, 8].tolist() for sample in shards] == [
        [255] * 3,
        [255, 0, 0],
        [0, 0, 255],
        [0, 255, 0],
    ]
    assert [shards.captions_of(place) for place in range(4)] == [
        ("white",),
        ("one red", "crimson"),
        ("größer",),
        ("green ★",),
    ]
    assert shards.name(2) == "b/1.tar: sub/0001.png" and shards[5]["caption"] == "one red"
    assert TarShards(tmp_path, 16, captions=["json:alt", "txt"]).captions_of(1) == ("rouge", "one red")
    assert sorted(path.name for path in tmp_path.rglob("*.index.safetensors")) == [
        "1.index.safetensors",
        "a.index.safetensors",
    ]
    first = shards.fingerprint()
    os.utime(tmp_path / "a.tar")
    assert TarShards(tmp_path, 16).fingerprint() == first


def test_packing_keeps_files_captions_and_masks(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        (images / f"{number}.png").write_bytes(png((number, 0, 0)))
        (images / f"{number}.txt").write_text(f"image {number}\nor so" if number == 2 else f"image {number}")
    (images / "3.mask.png").write_bytes(png(90, mode="L"))
    folder = ImageFolder(images, 16, caption_lines=True)
    tars = write_tars(tmp_path / "tars", folder_images(folder), per_tar=2)
    assert [tar.name for tar in tars] == ["00000.tar", "00001.tar", "00002.tar"]
    with tarfile.open(tars[1]) as file:
        assert "000000003.mask.png" in file.getnames()
    shards = TarShards(tmp_path / "tars", 16)
    for place in range(5):
        ours, theirs = shards.read(place), folder.read(place)
        assert ours is not None and theirs is not None
        assert (ours.image == theirs.image).all() and ours.captions == theirs.captions
        assert (ours.mask is None) == (place != 3)
    found = shards.read(3)
    assert found is not None and (found.mask == 90).all()
    with pytest.raises(SmaltiError, match="tars must be an empty folder"):
        write_tars(tmp_path / "tars", iter(()))
    scenes = Scenes(size=16)
    write_tars(tmp_path / "scenes", world_images(scenes, 3), per_tar=10)
    assert (TarShards(tmp_path / "scenes", 16)[2]["image"] == scenes[2]["image"]).all()


def cut(data: bytes, tar: Path) -> bytes:
    return data[:2000]


def cut_at_a_member(data: bytes, tar: Path) -> bytes:
    with tarfile.open(tar) as file:
        return data[: file.getmembers()[2].offset]


def without_end(data: bytes, tar: Path) -> bytes:
    return data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512)


def other(data: bytes, tar: Path) -> bytes:
    return b"no tar at all" * 100


def empty(data: bytes, tar: Path) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, cut_at_a_member, without_end, other, empty])
def test_a_tar_that_is_cut_short_is_named(tmp_path: Path, damage: Any) -> None:
    (tar,) = write_tars(tmp_path / "tars", iter([Packed({".png": png()}, ("red",), "a")] * 4))
    tar.write_bytes(damage(tar.read_bytes(), tar))
    with pytest.raises(ChangedFilesError, match=r"00000.index.safetensors does not fit 00000.tar, which has"):
        TarShards(tmp_path / "tars", 16)
    (tmp_path / "tars" / "00000.index.safetensors").unlink()
    with pytest.raises(SmaltiError, match=r"00000.tar is cut short or") as caught:
        TarShards(tmp_path / "tars", 16)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tars" / "00000.index.safetensors").exists()


def test_an_index_of_another_tar_of_the_same_size_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    write_tars(tmp_path / "tars", iter([Packed({".png": png()}, ("red",), "a")] * 2))
    shards = TarShards(tmp_path / "tars", 16)
    size = (tmp_path / "tars" / "00000.tar").stat().st_size
    write_tar(tmp_path / "tars" / "00000.tar", {"x.txt": b"x" * 900, "x.png": png("blue"), "x.json": b"{}"})
    assert (tmp_path / "tars" / "00000.tar").stat().st_size == size
    for use in (lambda: shards.read(1), lambda: TarShards(tmp_path / "tars", 16)[1]):
        with pytest.raises(ChangedFilesError, match="00000.tar does not fit its index") as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"x" * 50, "cut"])
def test_a_damaged_index_is_named(tmp_path: Path, content: bytes | str) -> None:
    write_tars(tmp_path / "tars", iter([Packed({".png": png()}, ("red",), "a")]))
    index = tmp_path / "tars" / "00000.index.safetensors"
    index.write_bytes(index.read_bytes()[:-9] if isinstance(content, str) else content)
    with pytest.raises(SmaltiError, match=r"00000.index.safetensors (is cut short|cannot be read)"):
        TarShards(tmp_path / "tars", 16)


def test_what_cannot_be_read_is_named_once_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = {}
    for number in range(6):
        members |= {f"{number}.png": png(), f"{number}.txt": b"red"}
    members["1.png"] = b"no image"
    members["2.txt"] = b" \n"
    del members["3.txt"]
    members |= {"4.mask.png": png(0, mode="L"), "5.txt": b"caf\xe9"}
    write_tar(tmp_path / "a.tar", members)
    shards = TarShards(tmp_path, 16)
    with caplog.at_level(logging.WARNING):
        assert [shards.read(place) is None for place in (0, 1, 2, 3, 4, 5, 1)] == [False] + [True] * 6
        assert shards[1]["caption"] == "red"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == shards.skipped == 5 and not any("\n" in message for message in messages)
    reasons = [
        "cannot identify",
        "it has no caption",
        "it has no caption",
        "its mask is black",
        "it is not utf-8 text",
    ]
    for number, (message, reason) in enumerate(zip(messages, reasons, strict=True), start=1):
        assert message.startswith(f"skipping a.tar: {number}.png: ") and reason in message


def test_wrong_folders_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SmaltiError, match="is not a folder"):
        TarShards(tmp_path / "none", 16)
    with pytest.raises(SmaltiError, match="has no tar"):
        TarShards(tmp_path, 16)
    write_tar(tmp_path / "texts" / "a.tar", {"a.txt": b"x"})
    with pytest.raises(SmaltiError, match="has no image in its 1 tars"):
        TarShards(tmp_path / "texts", 16)
    write_tar(tmp_path / "images" / "a.tar", {"a.png": png(), "a.json": b"{}"})
    with pytest.raises(SmaltiError, match="has no caption in its tars: no member for txt"):
        TarShards(tmp_path / "images", 16, captions=["txt"])
    with pytest.raises(SmaltiError, match="captions must be txt or json:KEY, not 'xml'"):
        TarShards(tmp_path / "images", 16, captions=["xml"])
    assert main(["pack", str(tmp_path / "images"), "-o", str(tmp_path / "new")]) == 2
    assert "source must be a folder of images" in capsys.readouterr().err
    assert main(["pack", "scenes", "-o", str(tmp_path / "new")]) == 2
    assert "--samples must be given for scenes" in capsys.readouterr().err


def test_indexes_can_be_elsewhere(tmp_path: Path) -> None:
    write_tar(tmp_path / "tars" / "sub" / "a.tar", {"a.png": png(), "a.txt": b"red"})
    assert len(TarShards(tmp_path / "tars", 16, index=tmp_path / "index")) == 1
    assert (tmp_path / "index" / "sub" / "a.index.safetensors").exists()
    assert not list((tmp_path / "tars").rglob("*.safetensors"))


def test_masks_are_cropped_like_their_images(tmp_path: Path) -> None:
    halves = np.zeros((16, 40), np.uint8)
    halves[:, 20:] = 255
    file = io.BytesIO()
    Image.fromarray(halves).resize((20, 8), Image.Resampling.NEAREST).save(file, "PNG")
    members = {"a.png": png(size=(40, 16)), "a.txt": b"red", "a.mask.png": file.getvalue()}
    members |= {"b.png": png(size=(40, 20)), "b.txt": b"red", "b.mask.png": file.getvalue()}
    write_tar(tmp_path / "a.tar", members)
    found = TarShards(tmp_path, 16).read(0)
    assert found is not None and found.mask is not None and found.size == (40, 16)
    assert (found.mask[:, :7] == 0).all() and (found.mask[:, 9:] == 255).all()
    assert TarShards(tmp_path, 16).read(1) is None  # other proportions


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_captions_are_read_by_their_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    write_tar(tmp_path / "a.tar", {"0.png": png(), "0.txt": "ein Stern ★\r\n".encode(encoding)})
    assert TarShards(tmp_path, 16).captions_of(0) == ("ein Stern ★",)
