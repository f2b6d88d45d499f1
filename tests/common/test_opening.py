"""Image files of every kind, opened in one place."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from smalti.common.images import to_rgb
from smalti.common.opening import UnreadableImageError, check_header, open_image, readable_suffixes
from smalti.data.folder import ImageFolder
from smalti.editing.picture import open_picture
from smalti.errors import SmaltiError
from smalti.evaluation.folder import read_samples, write_sample

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
# A header without the offset that follows it: Pillow raises struct.error.
BROKEN_EXIF = b"Exif\0\0II*\0"


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + crc


def openers(path: Path) -> list[Callable[[], np.ndarray]]:
    """How data, editing and evaluation open a file."""
    write_sample(path.parent.parent / "samples", 0, {"prompt": "x"}, [Image.new("RGB", (8, 8))])
    (path.parent.parent / "samples/00000/samples/0000.png").write_bytes(path.read_bytes())
    path.with_suffix(".txt").write_text("x")
    return [
        lambda: ImageFolder(path.parent, 40)[0]["image"].permute(1, 2, 0).numpy(),
        lambda: open_picture(path).shown,
        lambda: np.array(next(read_samples(path.parent.parent / "samples")[1])[0]),
    ]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "one").mkdir()
    path = tmp_path / "one" / "a.png"
    Image.fromarray(NOISE).save(path)
    return path


@pytest.mark.parametrize("after", [False, True], ids=["before the pixels", "after them"])
@pytest.mark.parametrize("kind", ["zTXt", "iTXt"])
def test_a_png_keeps_its_pixels_beside_much_text(picture: Path, kind: str, after: bool) -> None:
    packed = zlib.compress(b"node " * 400_000)
    content = b"workflow\0\0" + packed if kind == "zTXt" else b"workflow\0\x01\0\0\0" + packed
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "a cat")
    Image.fromarray(NOISE).save(picture, pnginfo=info)
    data = picture.read_bytes()
    place = data.index(b"IEND") - 4 if after else 33
    picture.write_bytes(data[:place] + chunk(kind.encode(), content) + data[place:])
    check_header(picture)
    for read in openers(picture):
        assert (read() == NOISE).all()
    assert open_picture(picture).text["prompt"] == "a cat"


def test_a_png_keeps_its_pixels_beside_many_texts(picture: Path) -> None:
    data = picture.read_bytes()
    texts = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(2**20 - 10))) * 70
    picture.write_bytes(data[:33] + texts + data[33:])
    assert (np.array(open_image(picture)) == NOISE).all()


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "{", "7"])
def test_foreign_descriptions_are_no_metadata(tmp_path: Path, text: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = text[:60_000]
    Image.fromarray(NOISE).save(tmp_path / "a.jpg", exif=exif)
    assert "prompt" not in open_picture(tmp_path / "a.jpg").text


def test_damaged_exif_data_leave_the_pixels(picture: Path) -> None:
    Image.fromarray(NOISE).save(picture, exif=BROKEN_EXIF)
    with Image.open(picture) as image, pytest.raises(struct.error):
        ImageOps.exif_transpose(image)
    for read in openers(picture):
        assert (read() == NOISE).all()


@pytest.mark.parametrize(
    "error", [IndexError("index"), KeyError(7), RuntimeError("a\nb"), AttributeError("x")]
)
def test_any_error_of_pillow_is_one_line_about_the_file(
    picture: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    reads = openers(picture)

    def fails(self: object, *_: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fails)
    for read in reads:
        with pytest.raises(
            SmaltiError, match=r"\.png is not a readable image|no readable image left"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_the_whole_room_is_silent(tmp_path: Path) -> None:
    """Neither Pillow nor its libtiff writes to standard error; that is a test of the process."""
    path = tmp_path / "a.tif"
    Image.fromarray(NOISE).save(path, compression="tiff_deflate")
    data = bytearray(path.read_bytes())
    for place in range(40, 400, 9):
        data[place] ^= 85
    path.write_bytes(data)
    code = f"from smalti.common.opening import open_image\ntry: open_image({str(path)!r})\nexcept ValueError: pass"
    run = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_threads_share_the_silence(picture: Path) -> None:
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [open_image(picture) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_deep_greys_are_scaled_by_what_they_hold() -> None:
    def ends(values: np.ndarray) -> tuple[int, int]:
        found = np.array(to_rgb(Image.fromarray(values)))[..., 0]
        return int(found.min()), int(found.max())

    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert ends(ramp) == (0, 255) and ends(ramp / 2) == (0, 128) and ends(ramp * 200) == (0, 200)
    assert ends(ramp * 5000 - 70) == (0, 255)
    assert ends((ramp * 100_000).astype(np.int32)) == (0, 255)
    assert ends((ramp * 65535).astype(np.int32)) == (0, 255)
    assert ends((ramp * 32896).astype(np.uint16)) == (0, 128)
    with pytest.raises(SmaltiError, match="not finite"):
        to_rgb(Image.fromarray(ramp * np.float32("nan")))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L"])
def test_colour_profiles_become_srgb(tmp_path: Path, mode: str) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = Image.new("RGB", (8, 8), (200, 60, 90)).convert(mode)
    plain.save(tmp_path / "a.png", icc_profile=srgb)
    assert np.array(to_rgb(open_image(tmp_path / "a.png"))).tolist() == np.array(to_rgb(plain)).tolist()
    plain.save(tmp_path / "b.png", icc_profile=b"no profile at all")
    assert np.array(to_rgb(open_image(tmp_path / "b.png"))).tolist() == np.array(to_rgb(plain)).tolist()


def wide_profile() -> bytes:
    """An ICC profile whose red is that of Display P3 and whose green and blue are exchanged: matrix and one gamma."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(
            round(value * 65536).to_bytes(4, "big", signed=True) for value in values
        )

    text = b"desc\0\0\0\0" + (5).to_bytes(4, "big") + b"Wide\0" + bytes(78 + 1)
    gamma = b"curv\0\0\0\0\0\0\0\x01\x02\x33\0\0"
    tags = {
        b"desc": text,
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.5151, 0.2412, -0.0011),
        b"gXYZ": xyz(0.2920, 0.6922, 0.0419),
        b"bXYZ": xyz(0.1571, 0.0666, 0.7841),
        b"rTRC": gamma,
        b"gTRC": gamma,
        b"bTRC": gamma,
    }
    table, body, start = len(tags).to_bytes(4, "big"), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + (start + len(body)).to_bytes(4, "big") + len(content).to_bytes(4, "big")
        body += content
    header = bytearray(128)
    header[0:4] = (start + len(body)).to_bytes(4, "big")
    header[8:12], header[12:24], header[36:40] = b"\x02\x10\0\0", b"mntrRGB XYZ ", b"acsp"
    header[68:80] = b"".join(round(v * 65536).to_bytes(4, "big") for v in (0.9642, 1, 0.8249))
    return bytes(header) + table + body


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_wide_colours_become_stronger_in_srgb(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (8, 8), (200, 60, 90) + (255,) * (mode == "RGBA"))
    image.save(tmp_path / "a.png", icc_profile=wide_profile())
    red, green, _ = open_picture(tmp_path / "a.png").shown[0, 0].tolist()
    assert red > 208 and green < 60


def test_formats_follow_pillow() -> None:
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"} <= readable_suffixes()
    assert (".avif" in readable_suffixes()) == ("AVIF" in Image.OPEN)
    assert ".txt" not in readable_suffixes() and ".pdf" not in readable_suffixes()


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="it is not a regular file"):
        open_image(tmp_path)
    with pytest.raises(UnreadableImageError, match="none.png does not exist"):
        check_header(tmp_path / "none.png")
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(SmaltiError, match="image: .* is not a readable image|does not exist") as caught:
            open_picture(tmp_path / name)
        assert caught.value.argument == "image"
