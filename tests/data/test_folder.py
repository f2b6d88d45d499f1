"""Pictures and captions from a folder."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.data.folder import ImageFolder
from smalti.errors import SmaltiError


def save(path: Path, image: Image.Image, caption: str | None = "a caption", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def plain(color: object = "red", size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, color)


def pixel(sample: dict, row: int = 8, column: int = 8) -> list[int]:
    return sample["image"][:, row, column].tolist()


def test_text_files_and_metadata_and_subfolders(tmp_path: Path) -> None:
    save(tmp_path / "b.png", plain("blue"), "  a blue\nthing ")
    save(tmp_path / "sub" / "c.jpg", plain("white"), None)
    save(tmp_path / "sub" / "deep" / "d.webp", plain("black"), None)
    save(tmp_path / "a.PNG", plain("red"), "\ufeffrot, größer")
    lines = [
        {"file_name": "c.jpg", "text": "white"},
        {"file_name": "deep/d.webp", "text": "black", "more": 1},
    ]
    (tmp_path / "sub" / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "notes.md").write_text("x")
    folder = ImageFolder(tmp_path / "sub" / "..", 16)
    assert len(folder) == 4
    assert [sample["caption"] for sample in folder] == ["rot, größer", "a blue thing", "white", "black"]
    sample = folder[1]
    assert sample["image"].shape == (3, 16, 16) and sample["image"].dtype == torch.uint8
    assert pixel(sample) == [0, 0, 255] and sample["image"].is_contiguous()


def test_pictures_are_scaled_to_cover_and_cropped_at_the_center(tmp_path: Path) -> None:
    stripes = np.zeros((20, 60, 3), np.uint8)
    stripes[:, 20:40] = (0, 255, 0)
    save(tmp_path / "a.png", Image.fromarray(stripes))
    assert (ImageFolder(tmp_path, 10)[0]["image"][1, :, 1:-1] > 240).all()
    wide = ImageFolder(tmp_path, (10, 30))[0]["image"]
    assert wide.shape == (3, 10, 30) and pixel({"image": wide}, 5, 3) == [0, 0, 0]
    assert ImageFolder(tmp_path, 50)[0]["image"].shape == (3, 50, 50)


def test_shrinking_does_not_alias(tmp_path: Path) -> None:
    checks = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    save(tmp_path / "a.png", Image.fromarray(checks))
    assert (ImageFolder(tmp_path, 32)[0]["image"].float() - 127.5).abs().max() < 3


def test_random_crops_differ_by_index_and_repeat_by_seed(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (20, 200, 3))
    save(tmp_path / "a.png", Image.fromarray(ramp))
    folder, again = ImageFolder(tmp_path, 20, crop="random"), ImageFolder(tmp_path, 20, crop="random")
    starts = [pixel(folder[index], 0, 0)[0] for index in range(20)]
    assert len(set(starts)) > 10 and max(starts) > 120 and min(starts) < 60
    assert starts == [pixel(again[index], 0, 0)[0] for index in range(20)]
    other = ImageFolder(tmp_path, 20, crop="random", seed=1)
    assert starts != [pixel(other[index], 0, 0)[0] for index in range(20)]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (plain((255, 0, 0, 0), mode="RGBA"), [255, 255, 255]),
        (plain((255, 0, 0, 128), mode="RGBA"), [255, 127, 127]),
        (plain(77, mode="L"), [77, 77, 77]),
        (plain((0, 128), mode="LA"), [127, 127, 127]),
        (plain(1, mode="1"), [255, 255, 255]),
        (plain("lime").convert("P"), [0, 255, 0]),
        (Image.fromarray(np.full((30, 40), 32896, np.uint16)), [128, 128, 128]),
    ],
    ids=["clear", "half clear", "grey", "grey alpha", "one bit", "palette", "sixteen bit"],
)
def test_every_mode_becomes_rgb(tmp_path: Path, image: Image.Image, expected: list[int]) -> None:
    save(tmp_path / "a.png", image)
    assert pixel(ImageFolder(tmp_path, 16)[0]) == pytest.approx(expected, abs=1)


def test_cmyk_and_orientation(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", plain((0, 0, 0, 0), mode="CMYK"))
    halves = Image.new("RGB", (32, 32), "black")
    halves.paste("white", (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: the top comes to the right
    save(tmp_path / "b.png", halves, exif=exif)
    folder = ImageFolder(tmp_path, 32)
    assert min(pixel(folder[0])) > 250
    assert pixel(folder[1], 16, 4) == [0, 0, 0] and pixel(folder[1], 16, 28) == [255, 255, 255]


def test_broken_files_are_named_once_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "a.png", plain("red"), "red")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    cut = save(tmp_path / "b.png", Image.fromarray(noise))
    cut.write_bytes(cut.read_bytes()[:2000])
    save(tmp_path / "c.png", plain("blue"), "blue")
    (tmp_path / "d.png").write_bytes(b"no picture\n")
    (tmp_path / "d.txt").write_text("nothing")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "gone"}\n')
    with caplog.at_level(logging.WARNING):
        folder = ImageFolder(tmp_path, 16)
        assert len(folder) == 3
        assert [folder[index]["caption"] for index in range(6)] == ["red", "blue", "blue"] * 2
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3 and not any("\n" in message for message in messages)
    for name in ("b.png", "d.png", "gone.png"):
        assert sum(name in message for message in messages) == 1


def test_all_broken_is_an_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    cut = save(tmp_path / "b.png", Image.fromarray(noise))
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(SmaltiError, match="all 1 are broken"):
        ImageFolder(tmp_path, 16)[0]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "line 1 is not JSON"),
        ("3", "file_name"),
        ('{"file_name": "a.png"}', "text"),
        ('{"file_name": "a.png", "text": " "}', "text"),
        ('{"file_name": 7, "text": "seven"}', "file_name"),
        ('{"file_name": "a.png", "text": "\\ud800"}', "valid Unicode"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_wrong_metadata_is_named(tmp_path: Path, line: str, named: str) -> None:
    save(tmp_path / "a.png", plain(), None)
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(SmaltiError, match=named) as caught:
        ImageFolder(tmp_path, 16)
    assert "metadata.jsonl" in str(caught.value) and "\n" not in str(caught.value)


def test_captions_as_other_tools_write_them(tmp_path: Path) -> None:
    names = ["b/1.png", "b/c/2.png", "k/3.png", "k/4.png", "w/5.png", "u/6.png"]
    for name in names:
        save(tmp_path / name, plain(), None)
    (tmp_path / "b" / "metadata.csv").write_text(
        '\ufefffile_name,text,more\r\n1.png,"one, ""quoted""\nin two lines",x\r\nc\\2.png,two,\r\n', "utf-8"
    )
    (tmp_path / "k" / "3.caption").write_text("three")
    (tmp_path / "k" / "4.txt").write_bytes("vier ★".encode("utf-16"))
    lines = [{"file_name": "w\\5.png", "text": "fi\u2028ve"}, {"file_name": "u/6.png", "text": "six"}]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "metadata.jsonl").write_text(text, encoding="utf-8-sig")
    found = {
        path.relative_to(tmp_path).as_posix(): captions[0]
        for path, captions in ImageFolder(tmp_path, 16).samples
    }
    expected = ['one, "quoted" in two lines', "two", "three", "vier ★", "fi ve", "six"]
    assert [found[name] for name in names] == expected


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png", plain(), None)
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SmaltiError, match=r"metadata.parquet needs pyarrow \(pip install pyarrow\)"):
        ImageFolder(tmp_path, 16)

    class Table:
        def to_pylist(self) -> list[dict[str, str]]:
            return [{"file_name": "a.png", "text": "an a"}]

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", SimpleNamespace(read_table=lambda path: Table()))
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace())
    assert ImageFolder(tmp_path, 16).captions == ["an a"]

    def fails(path: Path) -> None:
        raise RuntimeError("no\nfooter")

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", SimpleNamespace(read_table=fails))
    with pytest.raises(SmaltiError, match=r"cannot read .*metadata.parquet: no footer"):
        ImageFolder(tmp_path, 16)


def test_long_names_are_names(tmp_path: Path) -> None:
    name = "x" * 250 + ".png"
    save(tmp_path / name, plain(), None)
    with pytest.raises(SmaltiError, match="has no caption"):
        ImageFolder(tmp_path, 16)
    lines = [{"file_name": name, "text": "an x"}, {"file_name": "y\\" * 3000, "text": "none"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert ImageFolder(tmp_path, 16).captions == ["an x"]


def test_links_to_folders_are_read_once(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "a.png", plain())
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "images")
    assert [path.name for path, _ in ImageFolder(tmp_path / "images", 16).samples] == ["a.png"]


def test_notes_on_what_is_not_taken_or_shared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smalti.data.folder.unreadable_suffixes", lambda: frozenset({".heic"}))
    monkeypatch.setattr("smalti.data.folder.readable_suffixes", lambda: frozenset({".png", ".jpg"}))
    save(tmp_path / "a.png", plain())
    save(tmp_path / "a.jpg", plain())
    for name in ("b.heic", "c.HEIC", "notes.md", ".hidden", "d.txt", "e.caption", "noname"):
        (tmp_path / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert len(ImageFolder(tmp_path, 16)) == 2
    assert [record.getMessage().removeprefix(f"{tmp_path}: ") for record in caplog.records] == [
        "files that are not taken: 2 .heic (Pillow cannot read them here), 1 without suffix, 1 .md",
        "a.jpg and a.png share the caption a.txt",
    ]


@pytest.mark.skipif("AVIF" not in Image.OPEN, reason="needs a Pillow with AVIF")
def test_avif_is_read(tmp_path: Path) -> None:
    save(tmp_path / "a.avif", plain("blue"))
    assert pixel(ImageFolder(tmp_path, 16)[0])[2] > 250


def test_the_fingerprint_knows_names_sizes_times_and_captions(tmp_path: Path) -> None:
    picture = save(tmp_path / "a.png", plain("red"), "red")
    seen = [ImageFolder(tmp_path, 16).fingerprint()]
    assert ImageFolder(tmp_path, 16).fingerprint() == seen[0]
    save(tmp_path / "a.png", plain("red"), "crimson")
    os.utime(picture, ns=(1, 1))
    seen.append(ImageFolder(tmp_path, 16).fingerprint())
    os.utime(picture, ns=(2, 2))
    seen.append(ImageFolder(tmp_path, 16).fingerprint())
    save(tmp_path / "0.png", plain("red"), "red")
    seen.append(ImageFolder(tmp_path, 16).fingerprint())
    assert len(set(seen)) == 4


def test_a_caption_that_does_not_fit_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", plain(), "short")
    save(tmp_path / "b.png", plain(), "a very long one")

    def check(caption: str) -> None:
        if len(caption) > 5:
            raise SmaltiError("it is too long")

    with pytest.raises(SmaltiError, match=r"the caption of .*b\.png: it is too long"):
        ImageFolder(tmp_path, 16).check_captions(check)


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(SmaltiError, match="is not a folder"):
        ImageFolder(tmp_path / "none", 16)
    with pytest.raises(SmaltiError, match="no readable image"):
        ImageFolder(tmp_path, 16)
    picture = save(tmp_path / "a.png", plain(), None)
    with pytest.raises(SmaltiError, match=r"a\.png has no caption"):
        ImageFolder(tmp_path, 16)
    picture.with_suffix(".txt").write_text(" \n")
    with pytest.raises(SmaltiError, match=r"a\.txt is empty"):
        ImageFolder(tmp_path, 16)
    picture.with_suffix(".txt").write_bytes(b"caf\xe9")
    with pytest.raises(SmaltiError, match=r"cannot read the caption .*a\.txt"):
        ImageFolder(tmp_path, 16)
    picture.with_suffix(".txt").write_text("fine")
    for size in (0, -1, 1.5, "16", (16, 0)):
        with pytest.raises(SmaltiError, match="size"):
            ImageFolder(tmp_path, size)
    with pytest.raises(SmaltiError, match="crop"):
        ImageFolder(tmp_path, 16, crop="left")
    with pytest.raises(SmaltiError, match="index"):
        ImageFolder(tmp_path, 16)[-1]


@pytest.mark.parametrize("size", [0, 8193, 2**63, 2.0, True, "32", (32,), (32, 10**30), None])
def test_a_size_has_limits(tmp_path: Path, size: Any) -> None:
    with pytest.raises(
        SmaltiError, match="^size must be a whole number of pixels from 1 to 8192, or two, not "
    ):
        ImageFolder(tmp_path, size)


def test_several_captions_and_masks(tmp_path: Path) -> None:
    save(tmp_path / "a.png", plain(), "one \n\n two\none\n")
    save(tmp_path / "b.png", plain(), None)
    save(tmp_path / "party.mask.png", plain(), "no mask, for there is no party")
    save(tmp_path / "a.mask.png", plain(128, mode="L"), None)
    lines = [{"file_name": "b.png", "text": ["three", " four  five "]}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    folder = ImageFolder(tmp_path, 16, caption_lines=True)
    assert [captions for _, captions in folder.samples] == [
        ("one", "two"),
        ("three", "four five"),
        ("no mask, for there is no party",),
    ]
    assert ImageFolder(tmp_path, 16).samples[0][1] == ("one two one",)
    assert folder.captions == [caption for _, captions in folder.samples for caption in captions]
    masks = [(sample := folder.read(place)) and sample.mask for place in range(3)]
    assert masks[0] is not None and (masks[0] == 128).all() and masks[1] is masks[2] is None
    before = folder.fingerprint()
    os.utime(tmp_path / "a.mask.png", ns=(1, 1))
    assert ImageFolder(tmp_path, 16, caption_lines=True).fingerprint() != before
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.png", "text": []}')
    with pytest.raises(SmaltiError, match="must be an object with the text 'text'"):
        ImageFolder(tmp_path, 16)
