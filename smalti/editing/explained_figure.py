"""The figure of an explanation: the prompt with its words marked, and a tinted image for each word and part."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from smalti.editing.explained_parts import ExplainedPair, ExplainedWord

_MORE, _LESS = (230, 0, 150), (0, 120, 230)
_TEXT, _QUIET, _TRACK = (30, 30, 40), (115, 115, 125), (232, 232, 236)
_COLUMNS, _PANEL, _GAP, _MARGIN = 5, 208, 14, 24
_CAPTION, _BAR, _LEADING = 24, 4, 36
_WIDTH = 2 * _MARGIN + _COLUMNS * _PANEL + (_COLUMNS - 1) * _GAP
_KEY = (
    ("pink", _MORE),
    (": the word makes these tokens likelier", _QUIET),
    ("    blue", _LESS),
    (": less likely", _QUIET),
    ("    nats: the change of the image's log-likelihood", _QUIET),
)


@dataclass(frozen=True, eq=False)
class _Panel:
    """A tinted image: its name, its nats, their share of the row's largest (-1 to 1), its heat (H, W) (-1 to 1)."""

    name: str
    nats: float
    share: float
    heat: np.ndarray


def draw_figure(
    picture: np.ndarray, prompt: str, words: Sequence[ExplainedWord], pairs: Sequence[ExplainedPair]
) -> Image.Image:
    """Return a figure of an explanation.

    The head is the prompt, with its words marked by their nats. The first row has the image and a copy for each word,
    whose tint is relative to the strongest word. Each pair has a row with its four parts.

    Args:
        picture: pixels of the image, (H, W, 3) uint8.
        prompt: prompt of the image.
        words: what each word says.
        pairs: what each pair says.
    """
    H, W = picture.shape[:2]
    width, height = (max(1, round(side * _PANEL / max(H, W))) for side in (W, H))
    lines = list(_lines(prompt))
    word_rows = max(1, -(-len(words) // (_COLUMNS - 1)))
    down = height + _CAPTION + _BAR + _GAP
    top = _MARGIN + len(lines) * _LEADING + _CAPTION + _GAP
    sheet = Image.new(
        "RGB", (_WIDTH, top + (word_rows + len(pairs)) * down - _GAP + _MARGIN), (255, 255, 255)
    )
    draw = ImageDraw.Draw(sheet)
    _write_prompt(draw, lines, words)
    sheet.paste(Image.fromarray(picture).resize((width, height)), (_MARGIN, top + _CAPTION + _BAR))
    draw.text((_MARGIN, top), "image", fill=_TEXT, font=_font(15))
    for number, panel in enumerate(_word_panels(words)):
        row, column = divmod(number, _COLUMNS - 1)
        _paste(sheet, picture, panel, (column + 1, top + row * down), (width, height))
    for row, pair in enumerate(pairs, word_rows):
        text = "\n".join((_fitting(pair.words[0], 20), "and", _fitting(pair.words[1], 20)))
        draw.text((_MARGIN, top + row * down + _CAPTION), text, fill=_TEXT, font=_font(20), spacing=6)
        for column, panel in enumerate(_pair_panels(pair), 1):
            _paste(sheet, picture, panel, (column, top + row * down), (width, height))
    return sheet


def _word_panels(words: Sequence[ExplainedWord]) -> Iterator[_Panel]:
    most = max((abs(one.nats) for one in words), default=0.0) or 1.0
    peak = max((float(one.values.max()) for one in words), default=0.0)
    for one in words:
        strength = max(0.0, float(one.values.max()) / peak) if peak > 0 else 0.0
        yield _Panel(one.word, one.nats, one.nats / most, strength * one.map)


def _pair_panels(pair: ExplainedPair) -> Iterator[_Panel]:
    nats = pair.nats
    most = max(abs(value) for value in nats.values()) or 1.0
    for name, value in nats.items():
        yield _Panel(pair.titles[name], value, value / most, pair.maps[name])


def _paste(
    sheet: Image.Image, picture: np.ndarray, panel: _Panel, place: tuple[int, int], size: tuple[int, int]
) -> None:
    """Draw a panel in a column at a height: its name, its nats, a bar as long as its share, its tinted image."""
    draw = ImageDraw.Draw(sheet)
    left, top = _MARGIN + place[0] * (_PANEL + _GAP), place[1]
    number = f"{panel.nats:.1f}"
    right, color = left + size[0], _MORE if panel.share >= 0 else _LESS
    room = size[0] - draw.textlength(number, font=_font(15)) - 8
    draw.text((left, top), _fitting(panel.name, 15, room), fill=_TEXT, font=_font(15))
    draw.text((right, top), number, fill=color, font=_font(15), anchor="ra")
    bar = top + _CAPTION - 2
    draw.rectangle((left, bar, right - 1, bar + _BAR - 1), fill=_TRACK)
    if length := round(abs(panel.share) * size[0]):
        draw.rectangle((left, bar, left + length - 1, bar + _BAR - 1), fill=color)
    tinted = Image.fromarray(_tinted(picture, panel.heat))
    sheet.paste(tinted.resize(size), (left, top + _CAPTION + _BAR))


def _tinted(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return an image, grey and pale, in one colour where heat is above 0 and in another below: (H, W, 3) uint8."""
    grey = picture.astype(np.float32).mean(axis=2, keepdims=True).repeat(3, axis=2)
    pixels = 0.45 * grey + 0.55 * 255
    share = 0.85 * np.abs(heat)[..., None]
    color = np.where(heat[..., None] >= 0, np.array(_MORE, np.float32), np.array(_LESS, np.float32))
    return (pixels + share * (color - pixels)).round().clip(0, 255).astype(np.uint8)


def _write_prompt(
    draw: ImageDraw.ImageDraw, lines: list[list[tuple[int, str]]], words: Sequence[ExplainedWord]
) -> None:
    """Write the prompt with its words marked by their nats, and the key of colours below it."""
    font, small = _font(24), _font(13)
    most = max((abs(one.nats) for one in words), default=0.0) or 1.0
    y = _MARGIN
    for line in lines:
        x = float(_MARGIN)
        for start, text in line:
            for one in words:
                first, last = max(one.place[0] - start, 0), min(one.place[1] - start, len(text))
                if first < last:
                    left, right = (x + draw.textlength(text[:end], font=font) for end in (first, last))
                    shade = _mixed(_MORE if one.nats >= 0 else _LESS, 0.6 * abs(one.nats) / most)
                    draw.rounded_rectangle((left - 3, y - 2, right + 2, y + 29), radius=5, fill=shade)
            draw.text((x, y), text, fill=_TEXT, font=font)
            x += draw.textlength(text + " ", font=font)
        y += _LEADING
    x = float(_MARGIN)
    for text, color in _KEY:
        draw.text((x, y + 2), text, fill=color, font=small)
        x += draw.textlength(text, font=small)


def _lines(prompt: str) -> Iterator[list[tuple[int, str]]]:
    """Return the lines of a prompt, each as its words between blanks with their first characters in the prompt."""
    draw, font = ImageDraw.Draw(Image.new("RGB", (1, 1))), _font(24)
    line: list[tuple[int, str]] = []
    used = 0.0
    for found in re.finditer(r"\S+", prompt):
        length = draw.textlength(found[0] + " ", font=font)
        if line and used + length > _WIDTH - 2 * _MARGIN:
            yield line
            line, used = [], 0.0
        line.append((found.start(), found[0]))
        used += length
    yield line


def _mixed(color: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    """Return a colour on white."""
    red, green, blue = (round(255 + share * (value - 255)) for value in color)
    return red, green, blue


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font; a Pillow without FreeType has one size."""
    return ImageFont.load_default(size)


def _fitting(text: str, size: int, room: float = _PANEL) -> str:
    """Return a text that is cut to some pixels."""
    font = _font(size)
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"
