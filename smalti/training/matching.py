"""A start from a model with other tokenizers: its tables of codes and text ids, rewritten for this training's own.

Codes are matched by the pixels that they stand for. Both image tokenizers encode the same images on grids of the same
size. A code's vector becomes the mean of the vectors of the codes that the other tokenizer put in its places. Text ids
are matched by spelling. The rest of the model stays: it knows grounds, counts, places and colours already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch.nn import functional as F

from smalti.data.tokens import TokenShards
from smalti.model.text import TextTokenizer
from smalti.vq.tokenizer import ImageTokenizer

CODE_TABLES = ("gen_embedding.weight", "gen_predictor.weight")
"""Tables with a row for each code."""

TEXT_TABLE = "embed_tokens.weight"
"""Table with a row for each text id."""

_IMAGES, _BATCH = 384, 16
_ROWS = 1024  # codes whose distances to all others are computed at once


def matched_codes(own: ImageTokenizer, other: ImageTokenizer, grids: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return how often each code of another image tokenizer stands where a code of one's own does.

    Args:
        own: image tokenizer with V codes.
        other: image tokenizer with U codes.
        grids: batches of tokens of `own`, (B, h, w) int64, whose sides the other one can have, too.

    Returns:
        (V, U) float32, sparse; each row adds up to 1. A code that no grid has gets the row of the nearest that one has.

    Example:
        >>> import smalti
        >>> tokenizer = smalti.load("scenes").components.image_tokenizer
        >>> share = matched_codes(tokenizer, tokenizer, [torch.arange(4096).view(16, 16, 16)])
        >>> tuple(share.shape)
        (4096, 4096)
    """
    V, U = own.config.codebook_size, other.config.codebook_size
    pairs = []
    with torch.no_grad():
        for tokens in grids:
            pixels = own.to_pixels(tokens).float()
            size = tuple(side * other.config.downscale for side in tokens.shape[1:])
            if pixels.shape[2:] != size:
                pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True)
            found = other.from_pixels(pixels.clamp(0, 255).round().to(torch.uint8))
            pairs.append((tokens * U + found).flatten())
    pair, count = torch.cat(pairs).unique(return_counts=True)
    code = torch.div(pair, U, rounding_mode="floor")
    total = torch.zeros(V).index_add_(0, code, count.float())
    index, values = torch.stack([code, pair % U]), count / total[code]
    shares = torch.sparse_coo_tensor(index, values, (V, U), check_invariants=True)
    return shares.index_select(0, _nearest_seen(own.quantize.embedding.weight.detach(), total > 0))


def _nearest_seen(codebook: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Return each code itself if it is seen, else the nearest that is: (V,) int64."""
    nearest = torch.arange(len(codebook))
    places = seen.nonzero()[:, 0]
    for part in (~seen).nonzero()[:, 0].split(_ROWS):
        distance = torch.cdist(codebook[part].float(), codebook[places].float())
        nearest[part] = places[distance.argmin(dim=1)]
    return nearest


def matched_text(
    own: TextTokenizer, other: TextTokenizer, table: torch.Tensor, rows: int, generator: torch.Generator
) -> torch.Tensor:
    """Return a table of `rows` text ids: equal texts and special tokens keep their vectors, others are random.

    Args:
        own: text tokenizer of the new table.
        other: text tokenizer of `table`.
        table: (W, D) float.
        rows: rows of the new table.
        generator: source of the random vectors, which are as long as those of `table`.
    """
    found = torch.randn(rows, table.shape[1], generator=generator) * table.std()
    theirs = other.vocabulary()
    for text, number in own.vocabulary().items():
        if text in theirs:
            found[number] = table[theirs[text]]
    return found


def matched_tables(
    entries: Mapping[str, torch.Tensor],
    image_tokenizers: tuple[ImageTokenizer, ImageTokenizer],
    text_tokenizers: tuple[TextTokenizer, TextTokenizer],
    rows: int,
    images: TokenShards,
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """Return the three tables of a model for this training's tokenizers.

    Args:
        entries: the other model's three tables, by name.
        image_tokenizers: this training's and the other model's.
        text_tokenizers: this training's and the other model's.
        rows: rows of the new table of text ids.
        images: this training's images as tokens.
        generator: source of the vectors of unknown text ids.
    """
    shares = matched_codes(*image_tokenizers, _grids(images))
    found = {TEXT_TABLE: matched_text(*text_tokenizers, entries[TEXT_TABLE], rows, generator)}
    for name in CODE_TABLES:
        # The embedding has further rows, such as that of the mask.
        codes, others = entries[name].tensor_split([shares.shape[1]])
        found[name] = torch.cat([torch.sparse.mm(shares, codes), others])
    return found


def _grids(images: TokenShards) -> Iterator[torch.Tensor]:
    """Yield some of the images, spread over all of them, in batches of one grid."""
    step = max(1, len(images) // _IMAGES)
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for row in range(0, len(images), step):
        tokens, _ = images.tokens(row)
        groups.setdefault(tokens.shape, []).append(tokens)
    for group in groups.values():
        for start in range(0, len(group), _BATCH):
            yield torch.from_numpy(np.stack(group[start : start + _BATCH]))
