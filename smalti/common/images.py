"""Images as files: PNG, JPEG and WebP with metadata, grids of images, the unmasking as an animated GIF."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, PngImagePlugin

from smalti.common.checks import quoted
from smalti.common.files import atomic_path, parse_json
from smalti.errors import SmaltiError

# A position that is still unknown is a blank tile: two dark greys in turn, with a darker joint around it.
_TILES = ((94, 98, 106), (86, 90, 98))
_JOINT = (70, 73, 80)
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_QUALITY = 95  # of JPEG and WebP
_PNG_LEVEL = 4  # the default, 6, takes more than twice as long for files that are a twentieth smaller
_DESCRIPTION, _SOFTWARE = 0x010E, 0x0131  # EXIF tags
_FRAME_MILLISECONDS = 120
_LAST_FRAME_MILLISECONDS = 2000


def to_pil(pixels: np.ndarray) -> Image.Image:
    """Return (H, W, 3) uint8 as a PIL image."""
    return Image.fromarray(np.ascontiguousarray(pixels))


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Return (B, 3, H, W) uint8 as PIL images.

    Example:
        >>> to_images(torch.zeros(2, 3, 8, 16, dtype=torch.uint8))[1].size
        (16, 8)
    """
    return [to_pil(image) for image in pixels.permute(0, 2, 3, 1).numpy()]


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode and colour profile as sRGB; what is transparent shows white.

    Raises:
        SmaltiError: its numbers are not finite.
    """
    image = to_srgb(image)
    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def to_srgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode and colour profile as sRGB: in mode RGBA if some of it may be transparent, else RGB.

    Raises:
        SmaltiError: its numbers are not finite.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    profile = image.info.get("icc_profile")
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.mode == "P" or (image.mode in ("1", "L", "RGB") and image.has_transparency_data):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    colors = image.convert("LA").getchannel("L") if image.mode == "LA" else image
    converted = _by_profile(colors.convert("RGB") if colors.mode == "RGBA" else colors, profile)
    if image.mode in ("RGBA", "LA", "PA"):
        converted.putalpha(image.getchannel("A"))
    return converted


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Return grey values of more than eight bits as uint8.

    Whole numbers from 0 to 65,535 are sixteen bits. Fractions from 0 to 1 go from black to white, and those up to 255
    stay. Other values have no known white, so their own range goes from black to white.
    """
    if not np.isfinite(values).all():
        raise SmaltiError("the image holds numbers that are not finite")
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        black, white = (0.0, 1.0) if high <= 1 else (0.0, 255.0)
    else:
        black, white = 0.0, 65535.0
    if low < black or high > white:
        black, white = low, high
    if values.dtype.kind != "f" and white == 65535:
        return (values // 257).astype(np.uint8)
    scaled = (values.astype(np.float64) - black) / max(white - black, 1e-30) * 255
    return scaled.round().clip(0, 255).astype(np.uint8)


def _by_profile(image: Image.Image, profile: object) -> Image.Image:
    """Return an opaque image as RGB, its colours converted from an ICC profile to sRGB if it has another one."""
    if image.mode == "LAB" or (profile is not None and image.mode != "1"):
        try:
            source = ImageCms.createProfile("LAB") if image.mode == "LAB" else _profile(profile)
            if source is None:
                return image.convert("RGB")
            converted = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, ImportError):
            pass  # Pillow without LittleCMS, a profile of another kind of image, or one that is damaged
    return image.convert("RGB")


def _profile(profile: object) -> ImageCms.ImageCmsProfile | None:
    """Return an ICC profile, or None if it is sRGB or none."""
    if not isinstance(profile, bytes) or not profile:
        return None
    found = ImageCms.ImageCmsProfile(BytesIO(profile))
    return None if "sRGB" in ImageCms.getProfileDescription(found) else found


def save_image(image: Image.Image, path: str | Path, text: Mapping[str, str] | None = None) -> None:
    """Write an image with metadata, whole or not at all; the suffix chooses PNG, JPEG or WebP.

    A PNG holds each entry of `text` as a text chunk. JPEG and WebP hold them as one JSON object in the EXIF tag
    ImageDescription, and the entry "Software" in its own tag.

    Args:
        path: a name that ends with .png, .jpg, .jpeg or .webp.
        text: metadata by key, or None.

    Raises:
        SmaltiError: another suffix, or it cannot be written; a file that was there before stays as it was.

    Example:
        >>> save_image(Image.new("RGB", (8, 8)), "black.webp", {"prompt": "nothing"})
        >>> with Image.open("black.webp") as image:
        ...     read_metadata(image)
        {'prompt': 'nothing', 'Software': ''}
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise SmaltiError(
            f"path must end with {' or '.join(_FORMATS)}, not {quoted(str(path))}", argument="path"
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_image(image, _FORMATS[suffix], text))


def encode_image(
    image: Image.Image, form: str, text: Mapping[str, str] | None = None, quality: int = _QUALITY
) -> bytes:
    """Return the content of an image's file, with metadata as `save_image` writes them.

    Args:
        form: "PNG", "JPEG" or "WEBP".
        quality: quality of JPEG and WebP, from 0 to 100.

    Example:
        >>> encode_image(Image.new("RGB", (8, 8)), "PNG")[1:4]
        b'PNG'
    """
    file = BytesIO()
    if form == "PNG":
        info = PngImagePlugin.PngInfo()
        for key, value in (text or {}).items():
            info.add_text(key, value)
        image.save(file, format="PNG", pnginfo=info, compress_level=_PNG_LEVEL)
        return file.getvalue()
    exif = Image.Exif()
    if text:
        exif[_SOFTWARE] = text.get("Software", "")
        exif[_DESCRIPTION] = json.dumps({key: value for key, value in text.items() if key != "Software"})
    image.save(file, format=form, quality=quality, exif=exif)
    return file.getvalue()


def read_metadata(image: Image.Image) -> dict[str, str]:
    """Return the metadata that `save_image` wrote into a file; {} where there is none."""
    text = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    try:
        values = parse_json(image.getexif().get(_DESCRIPTION, "{}"), "ImageDescription")
    except Exception:  # damaged EXIF data raise nearly every kind, and so does a text that is not ours
        return text
    if isinstance(values, dict) and values:
        text |= {key: value for key, value in values.items() if isinstance(value, str)}
        text |= {"Software": str(image.getexif().get(_SOFTWARE, ""))}
    return text


def save_gif(frames: Sequence[Image.Image], path: str | Path) -> None:
    """Write frames as a GIF that loops and rests at its last frame, whole or not at all.

    Raises:
        SmaltiError: it cannot be written; a file that was there before stays as it was.
    """
    # Dithering would flicker from frame to frame.
    first, *rest = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    durations = [_FRAME_MILLISECONDS] * len(rest) + [_LAST_FRAME_MILLISECONDS]
    with atomic_path(path) as temporary:
        first.save(
            temporary, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0, disposal=1
        )


def paint_unknown(pixels: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Cover the positions that are not known yet with blank tiles.

    Args:
        pixels: (H, W, 3) uint8.
        unknown: (h, w) bool; H and W are multiples of h and w.

    Returns:
        A new (H, W, 3) uint8.
    """
    height, width = unknown.shape
    rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
    parity = np.add.outer(np.arange(height), np.arange(width)) % 2
    tiles = np.array(_TILES, dtype=np.uint8)[parity].repeat(rows, axis=0).repeat(columns, axis=1)
    if min(rows, columns) >= 8:
        tiles[::rows] = tiles[:, ::columns] = _JOINT
    covered = unknown.repeat(rows, axis=0).repeat(columns, axis=1)
    return np.where(covered[..., None], tiles, pixels)


def make_grid(images: torch.Tensor, columns: int, gap: int = 4) -> Image.Image:
    """Return images side by side: (N, 3, H, W) uint8, `columns` a row, with a white gap in pixels between them."""
    N, _, H, W = images.shape
    rows = -(-N // columns)
    canvas = torch.full((rows * (H + gap) - gap, columns * (W + gap) - gap, 3), 255, dtype=torch.uint8)
    for index, image in enumerate(images.cpu()):
        top, left = index // columns * (H + gap), index % columns * (W + gap)
        canvas[top : top + H, left : left + W] = image.permute(1, 2, 0)
    return Image.fromarray(canvas.numpy())


def save_grid(images: torch.Tensor, path: str | Path, columns: int) -> None:
    """Write a grid of images (N, 3, H, W) uint8, whole or not at all.

    Raises:
        SmaltiError: it cannot be written; a file that was there before stays as it was.
    """
    with atomic_path(path) as temporary:
        make_grid(images, columns).save(temporary)
