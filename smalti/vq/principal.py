"""The start of an image tokenizer with a linear encoder: principal components, k-means, and least squares.

Features are coordinates along the directions in which squares of pixels vary most. Their distances are errors of
pixels, so the nearest code is the best square that a linear decoder can draw. Nothing is trained by gradients: the
decoder's convolutions correct the squares later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from smalti.common.randomness import stream
from smalti.errors import SmaltiError
from smalti.vq.autoencoder import LinearEncoder
from smalti.vq.kmeans import kmeans
from smalti.vq.tokenizer import ImageTokenizer, to_float

_SQUARES_PER_CODE = 64  # different squares that k-means sees, if there are as many
_ITERATIONS = 12
_CHUNK = 2**16  # squares that are floats at a time; all of a large codebook's would not fit in memory


@torch.no_grad()
def principal_start(tokenizer: ImageTokenizer, images: Iterable[torch.Tensor], seed: int) -> None:
    """Set the encoder, the codes and the decoder's linear map of a tokenizer, which must have a linear encoder.

    Weights are rounded to bfloat16, in which tokenizers are stored, before the next ones are found.

    Args:
        tokenizer: the image tokenizer, on the CPU; its `z_channels` are at least its `embed_dim`.
        images: (3, H, W) uint8 each, with at least as many different squares as there are codes.
        seed: seed of the squares that k-means sees, and of its start.

    Raises:
        SmaltiError: the encoder is not linear, or there are fewer different squares than codes.

    Example:
        >>> import torch
        >>> from smalti.vq.config import VQConfig
        >>> from smalti.vq.tokenizer import ImageTokenizer
        >>> shape = {"ch": 32, "ch_mult": (1,), "num_res_blocks": 1, "patch_size": 4, "attn_resolutions": ()}
        >>> sizes = {"z_channels": 8, "embed_dim": 8, "codebook_size": 16}
        >>> tokenizer = ImageTokenizer(VQConfig(encoder="linear", **shape, **sizes))
        >>> tokenizer.init_weights()
        >>> images = torch.randint(0, 256, (2, 3, 16, 16), generator=torch.manual_seed(0), dtype=torch.uint8)
        >>> principal_start(tokenizer, images, seed=0)
        >>> len(tokenizer.from_pixels(images).unique())
        16
    """
    config, encoder = tokenizer.config, tokenizer.encoder
    if not isinstance(encoder, LinearEncoder):
        raise SmaltiError(
            f"encoder must be 'linear' for a start by principal components, not {config.encoder!r}"
        )
    if config.z_channels < config.embed_dim:
        raise SmaltiError(
            f"z_channels must be at least embed_dim ({config.embed_dim}), not {config.z_channels}"
        )
    numbers = 3 * config.downscale**2
    if config.embed_dim > numbers:
        raise SmaltiError(
            f"embed_dim must be at most {numbers}, the numbers of a square, not {config.embed_dim}"
        )
    # Grounds repeat the same squares. They need one code each, and things need all others.
    squares = _different_squares(images, config.downscale)
    if len(squares) < config.codebook_size:
        raise SmaltiError(
            f"codebook_size must be at most the number of different squares that it starts from ({len(squares)}), "
            f"not {config.codebook_size}"
        )
    mean, directions = _directions(squares, config.embed_dim)
    directions, offset = _rounded(directions), _rounded(-directions.T @ mean)
    _set(encoder.projection, directions.T, offset)
    for link in (tokenizer.quant_conv, tokenizer.post_quant_conv):
        _set(link, torch.eye(config.embed_dim), torch.zeros(config.embed_dim))
    generator = stream(seed, "squares")
    few = squares[
        torch.randperm(len(squares), generator=generator)[: _SQUARES_PER_CODE * config.codebook_size]
    ]
    points = torch.cat([part @ directions + offset for part in _floats(few)])
    centers, _ = kmeans(points, config.codebook_size, iterations=_ITERATIONS, generator=generator)
    tokenizer.quantize.embedding.weight.copy_(_rounded(centers))
    ids = tokenizer.quantize.tokens(points.T[None, :, :, None]).flatten()
    _fit_squares(tokenizer, ids, few)


def _different_squares(images: Iterable[torch.Tensor], side: int) -> torch.Tensor:
    """Return the different squares of images in the order in which they occur, (N, 3 · side²) uint8."""
    known = {
        square.tobytes(): None
        for image in images
        for square in F.pixel_unshuffle(image[None], side)[0].flatten(1).T.contiguous().numpy()
    }
    return torch.frombuffer(bytearray().join(known), dtype=torch.uint8).reshape(len(known), -1)


def _floats(squares: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield squares (N, D) uint8 as float32 in [-1, 1], some at a time."""
    for part in squares.split(_CHUNK):
        yield to_float(part)


def _directions(squares: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean square (D,), and the directions (D, count) of most variance, scaled to a mean variance of 1."""
    size = squares.shape[1]
    total = torch.zeros(size, dtype=torch.float64)
    for part in _floats(squares):
        total += part.double().sum(dim=0)
    mean = (total / len(squares)).float()
    products = torch.zeros(size, size, dtype=torch.float64)
    for part in _floats(squares):
        centred = part - mean
        products += (centred.T @ centred).double()
    values, vectors = torch.linalg.eigh(products / len(squares))
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    return mean, (vectors / values.mean().clamp_min(1e-12).sqrt()).float()


def _fit_squares(tokenizer: ImageTokenizer, ids: torch.Tensor, squares: torch.Tensor) -> None:
    """Set the decoder's linear map to the one whose squares for these codes have the least squared error."""
    codes = tokenizer.quantize.embedding.weight.double()
    known = torch.cat([codes, torch.ones(len(codes), 1, dtype=torch.float64)], dim=1)
    counts = torch.bincount(ids, minlength=len(codes)).double()
    sums = torch.zeros(len(codes), squares.shape[1], dtype=torch.float64)
    for part, groups in zip(_floats(squares), ids.split(_CHUNK), strict=True):
        sums.index_add_(0, groups, part.double())
    products = known.T @ (known * counts[:, None])
    products += 1e-9 * products.diagonal().mean() * torch.eye(len(products), dtype=torch.float64)
    found = torch.linalg.solve(products, known.T @ sums)
    _set(tokenizer.decoder.linear, _rounded(found[:-1].T.float()), _rounded(found[-1].float()))


def _set(layer: nn.Conv2d, matrix: torch.Tensor, offset: torch.Tensor) -> None:
    """Make a 1×1 convolution multiply by `matrix` (out, in) and add `offset` (out,); channels beyond them are 0."""
    rows, columns = matrix.shape
    layer.weight.zero_()[:rows, :columns, 0, 0] = matrix
    assert layer.bias is not None
    layer.bias.zero_()[:rows] = offset


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.bfloat16().float()
