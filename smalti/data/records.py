"""A grid of tokens as bytes: two bytes a token, and one bit more where a codebook has up to 131,072 codes.

A record holds the grid of an image. In a set with mirror images, that of the mirror image follows. If the image has a
mask, its loss weights come last, one byte a token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LARGEST_CODEBOOK = 2**32
_LOW = 2**16


class Grids(NamedTuple):
    """What a record holds.

    Attributes:
        tokens: (h, w) int64.
        mirrored: (h, w) int64 of the mirror image, or None.
        weights: (h, w) uint8, loss weights from 0 to 255, or None for 255 everywhere.
    """

    tokens: np.ndarray
    mirrored: np.ndarray | None = None
    weights: np.ndarray | None = None


def grid_bytes(count: int, codes: int) -> int:
    """Return the number of bytes of `count` tokens of a codebook of `codes` codes."""
    if codes <= _LOW:
        return 2 * count
    return 2 * count + -(-count // 8) if codes <= 2 * _LOW else 4 * count


def pack_grid(tokens: np.ndarray, codes: int) -> bytes:
    """Return tokens (h, w), whole numbers from 0 to codes − 1, as bytes.

    Example:
        >>> packed = pack_grid(np.array([[0, 131071], [7, 65536]]), 131072)
        >>> len(packed), unpack_grid(packed, (2, 2), 131072).tolist()
        (9, [[0, 131071], [7, 65536]])
    """
    flat = tokens.ravel()
    if codes > 2 * _LOW:
        return flat.astype("<u4").tobytes()
    low = flat.astype("<u2").tobytes()  # keeps the lower 16 bits
    return low if codes <= _LOW else low + np.packbits(flat >= _LOW).tobytes()


def unpack_grid(packed: bytes, grid: tuple[int, int], codes: int, start: int = 0) -> np.ndarray:
    """Return the tokens of `pack_grid`, (h, w) int64, from the bytes that begin at `start`.

    Raises:
        ValueError: there are too few bytes, or a token is none of the codes.
    """
    count = grid[0] * grid[1]
    if codes > 2 * _LOW:
        tokens = np.frombuffer(packed, "<u4", count, start).astype(np.int64)
    else:
        tokens = np.frombuffer(packed, "<u2", count, start).astype(np.int64)
        if codes > _LOW:
            high = np.frombuffer(packed, np.uint8, -(-count // 8), start + 2 * count)
            tokens += np.unpackbits(high, count=count).astype(np.int64) << 16
    # A codebook of 2¹⁶ or 2¹⁷ codes uses every value that its bits can have.
    if codes not in (_LOW, 2 * _LOW) and tokens.max(initial=0) >= codes:
        raise ValueError("a token is no code")
    return tokens.reshape(grid)


def pack_record(grids: Grids, codes: int) -> bytes:
    """Return the bytes of a record."""
    parts = [pack_grid(grids.tokens, codes)]
    if grids.mirrored is not None:
        parts.append(pack_grid(grids.mirrored, codes))
    if grids.weights is not None:
        parts.append(grids.weights.astype(np.uint8).tobytes())
    return b"".join(parts)


def unpack_record(
    record: bytes, grid: tuple[int, int], codes: int, *, mirrored: bool, flip: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return tokens and weights of a record.

    Args:
        record: its bytes.
        grid: height and width in tokens.
        codes: size of the codebook.
        mirrored: whether the record holds the mirror image.
        flip: whether that is wanted.

    Returns:
        (h, w) int64 and (h, w) uint8 or None.

    Raises:
        ValueError: the record is damaged.
    """
    count = grid[0] * grid[1]
    size = grid_bytes(count, codes)
    tokens = unpack_grid(record, grid, codes, size if mirrored and flip else 0)
    behind = (1 + mirrored) * size
    if len(record) == behind:
        return tokens, None
    weights = np.frombuffer(record, np.uint8, count, behind).reshape(grid)
    return tokens, weights[:, ::-1] if flip else weights
