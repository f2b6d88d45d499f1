"""Image files opened in one place: whatever Pillow raises becomes one clear error, and its warnings stay silent."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import re
import threading
import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from smalti.errors import SmaltiError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_SOME_BUILDS = (
    ".avif",
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
)  # some builds of Pillow read them, or a plugin does
_PNG = b"\x89PNG\r\n\x1a\n"
_LONGEST_TEXT = 2**20  # bytes; Pillow refuses a PNG whose compressed text is longer
_MOST_TEXT = 2**25  # bytes of all texts of a PNG; Pillow refuses twice as many
_MISSING = "does not exist"
_LONGEST_REASON = 160


class UnreadableImageError(SmaltiError):
    """A file that holds no readable image.

    Attributes:
        reason: what is wrong with it, without the name of the file.
    """

    def __init__(self, what: str, reason: str) -> None:
        missing = reason == _MISSING
        super().__init__(f"{what} {reason}" if missing else f"{what} is not a readable image: {reason}")
        self.reason = reason


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of the image files that can be read here."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    registered = Image.registered_extensions()
    return frozenset(
        [*_SUFFIXES, *(suffix for suffix in _SOME_BUILDS if registered.get(suffix) in Image.OPEN)]
    )


def unreadable_suffixes() -> frozenset[str]:
    """Return the suffixes of image files that other builds of Pillow read, but this one does not."""
    return frozenset(_SOME_BUILDS) - readable_suffixes()


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn whatever Pillow raises in the block into an error about `what`, and keep its warnings silent.

    Raises:
        UnreadableImageError: the block raised any error but a lack of memory.
    """
    try:
        with _silence:
            yield
    except (SmaltiError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UnreadableImageError(what, _MISSING) from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UnreadableImageError(what, f"it has more than {most} megapixels") from error
    except Exception as error:  # plugins raise nearly every kind for damaged files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        reason = re.sub(r" <_io\.[^>]*>", "", reason)
        # Pillow repeats the name of the file.
        raise UnreadableImageError(what, reason.removesuffix(f" {what!r}")[:_LONGEST_REASON]) from error


def check_header(path: str | Path) -> None:
    """Raise an error unless a file starts like an image.

    Raises:
        UnreadableImageError: it does not.
    """
    with readable(str(path)), _opened(path):
        pass


def open_image(path: str | Path | BytesIO, most_pixels: int | None = None) -> Image.Image:
    """Return the image of a file, decoded and upright, in its own mode.

    A PNG with too much text for Pillow loses that text. An image whose EXIF data are damaged is not turned.

    Args:
        path: name of the file, or its content.
        most_pixels: largest number of pixels, which the header tells before anything is decoded.

    Raises:
        UnreadableImageError: the file holds no image, or a damaged one.
        SmaltiError: it has no pixels or too many.

    Example:
        >>> Image.new("RGB", (8, 4)).save("black.png")
        >>> open_image("black.png").size
        (8, 4)
    """
    what = "its content" if isinstance(path, BytesIO) else str(path)
    with readable(what):
        try:
            with _opened(path) as image:
                return decode(image, what, most_pixels)
        except ValueError as error:
            if isinstance(error, SmaltiError) and not isinstance(error, UnreadableImageError):
                raise
            # Texts may also follow the pixels.
            content = _without_long_texts(path)
            if content is None:
                raise
            with Image.open(content) as image:
                return decode(image, what, most_pixels)


def decode(image: Image.Image, what: str, most_pixels: int | None = None) -> Image.Image:
    """Return an opened image decoded and upright, with the texts of its file.

    Args:
        image: an image whose file may not be decoded yet.
        what: name of the image in errors.
        most_pixels: largest number of pixels.

    Raises:
        UnreadableImageError: its file is damaged.
        SmaltiError: it has no pixels or too many.
    """
    check_pixels(*image.size, most_pixels)
    with readable(what):
        image.load()
        try:
            upright = ImageOps.exif_transpose(image)
        except Exception:  # damaged EXIF data; the pixels are fine
            upright = image.copy()
        upright.info.update({key: value for key, value in image.info.items() if isinstance(value, str)})
        return upright


def check_pixels(width: int, height: int, most: int | None) -> None:
    """Raise SmaltiError unless an image has pixels, and at most `most`; the message lacks the image's name."""
    if width < 1 or height < 1:
        raise SmaltiError(f"must have at least one pixel, not {width}×{height}")
    if most is not None and width * height > most:
        raise SmaltiError(
            f"must have at most {most // 10**6} megapixels, "
            f"not {width}×{height}, which is {width * height / 1e6:.0f}"
        )


def _opened(path: str | Path | BytesIO) -> Image.Image:
    """Open an image; a PNG with too much text for Pillow opens without that text."""
    _silence_libtiff()
    if not isinstance(path, BytesIO) and os.path.exists(path) and not os.path.isfile(path):
        raise OSError("it is not a regular file")  # a pipe would be waited for
    try:
        return Image.open(path)
    except ValueError:
        content = _without_long_texts(path)
        if content is None:
            raise
        return Image.open(content)


def _without_long_texts(path: str | Path | BytesIO) -> BytesIO | None:
    """Return a PNG without its texts that Pillow refuses; None for another file, or one without such texts."""
    data = path.getvalue() if isinstance(path, BytesIO) else Path(path).read_bytes()
    if not data.startswith(_PNG):
        return None
    kept, place, total = [_PNG], len(_PNG), 0
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind, content = data[place + 4 : place + 8], data[place + 8 : end - 4]
        length = _text_length(kind, content) if kind in (b"tEXt", b"zTXt", b"iTXt") else 0
        if length <= min(_LONGEST_TEXT, _MOST_TEXT - total):
            kept.append(data[place:end])
            total += length
        place = end
    return BytesIO(b"".join(kept)) if sum(map(len, kept)) < len(data) else None


def _text_length(kind: bytes, content: bytes) -> int:
    """Return the number of bytes of a PNG's text, counted to just beyond the limit."""
    key, _, rest = content.partition(b"\0")
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] == b"\0"):
        return len(content)
    packed = rest[1:] if kind == b"zTXt" else rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    try:
        return len(zlib.decompressobj().decompress(packed, _LONGEST_TEXT + 1))
    except zlib.error:
        return 0


class _Silence:
    """A context without warnings, which several threads may share: Python's own is for one thread alone."""

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.context = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.context = warnings.catch_warnings()
                self.context.__enter__()
                warnings.simplefilter("ignore")
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.context.__exit__(None, None, None)


_silence = _Silence()


@cache
def _silence_libtiff() -> None:
    """Keep Pillow's libtiff from writing to the standard error of the process."""
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(Image.core.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            setter = getattr(library, name)
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
