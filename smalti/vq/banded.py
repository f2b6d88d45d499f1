"""The VQGAN in horizontal bands, for images whose feature maps are too large to hold several of at once.

Every layer is a stream: bands of a map's rows go in from the top, and bands of the next map's rows come out. A 3×3
convolution keeps two rows back until it has seen the row below. One float32 map, the residual stream, stays in memory
and is added to in place; the inner maps of a block never exist as a whole. GroupNorm needs statistics of whole maps, so
its rows are computed once for the statistics and once more for their use. Nothing is approximated: in float32 the
result equals the plain one up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from smalti.errors import SmaltiError
from smalti.vq.autoencoder import Decoder, Encoder
from smalti.vq.config import VQConfig
from smalti.vq.layers import (
    AttentionBlock,
    Downsample,
    Level,
    PositionNorm,
    ResnetBlock,
    Upsample,
    position_norm,
)

# For the reference model at 1024², BAND_BYTES are four rows of the finest map, enough for convolutions at full speed.
# KEEP_BYTES hold every inner map outside the finest level.
BAND_BYTES = 2**22
KEEP_BYTES = 2**28


def largest_map_bytes(config: VQConfig, height: int, width: int) -> int:
    """Return the bytes of the largest float32 feature map of one image of height × width pixels.

    Without bands, decoding holds up to five such maps at once.
    """
    channels = [config.ch * mult for mult in config.ch_mult]
    # What comes up from the level below has that level's channels until the first block changes their number.
    widest = [max(pair) for pair in zip(channels, [*channels[1:], 0], strict=True)]
    positions = height * width // config.patch_size**2
    return max(4 * count * positions // 4**level for level, count in enumerate(widest))


@torch.no_grad()
def decode_in_bands(
    decoder: Decoder,
    z: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    band_bytes: int = BAND_BYTES,
    keep_bytes: int = KEEP_BYTES,
) -> torch.Tensor:
    """Compute `decoder(z)` in the memory of one and a quarter of the largest map and a few bands.

    Args:
        decoder: the decoder. Its weights may have any floating dtype; a layer that works in another one converts them
            while it runs.
        z: (B, z_channels, h, w), any floating dtype.
        dtype: dtype of the products in the blocks of the finest level, which are most of a large image's work. All
            else is float32, because deeper rounding errors spread over the image. bfloat16 is faster where the
            hardware has it; the memory is nearly the same.
        band_bytes: size of a float32 band at every level, at least a row. About ten bands are alive at a time.
        keep_bytes: size up to which the map between the two convolutions of a block is kept. A larger one is computed
            twice, once for its statistics and once for its use.

    Returns:
        (B, 3, h · downscale, w · downscale) float32, about [-1, 1], not clamped. It carries no gradient.

    Raises:
        SmaltiError: the dtype is not a floating one, or a number of bytes is below one.
    """
    plan = _Plan(torch.float32, band_bytes, keep_bytes)
    finest, *deeper = cast(list[Level], list(decoder.up))
    layers = [*decoder.mid.layers(), *(layer for level in reversed(deeper) for layer in level.layers())]
    steps: list[tuple[nn.Module, _Plan]] = [(layer, plan) for layer in layers]
    steps += [(layer, replace(plan, dtype=dtype)) for layer in finest.layers()]
    x = _run(decoder, z, steps, plan)
    linear = getattr(decoder, "linear", None)
    return decoder.assemble(x, z if linear is None else z.to(linear.weight.dtype)).float().contiguous()


@torch.no_grad()
def encode_in_bands(
    encoder: Encoder,
    images: torch.Tensor,
    *,
    band_bytes: int = BAND_BYTES,
    keep_bytes: int = KEEP_BYTES,
) -> torch.Tensor:
    """Compute `encoder(images)`, (B, z_channels, h, w), in float32, because codes depend on the last bits.

    The other arguments and the errors are those of `decode_in_bands`.

    Args:
        images: (B, 3, H, W) in [-1, 1], any floating dtype, sides that are multiples of the tokenizer's downscale.
    """
    plan = _Plan(torch.float32, band_bytes, keep_bytes)
    layers = [
        *(layer for level in cast(list[Level], list(encoder.down)) for layer in level.layers()),
        *encoder.mid.layers(),
    ]
    x = F.pixel_unshuffle(images, encoder.patch_size) if encoder.patch_size > 1 else images
    return _run(encoder, x, [(layer, plan) for layer in layers], plan)


@dataclass(frozen=True)
class _Plan:
    """How to compute; the fields are the arguments of `decode_in_bands`."""

    dtype: torch.dtype
    band_bytes: int
    keep_bytes: int

    def __post_init__(self) -> None:
        if not self.dtype.is_floating_point:
            raise SmaltiError(f"dtype must be a floating one, not {self.dtype}")
        for name in ("band_bytes", "keep_bytes"):
            if getattr(self, name) < 1:
                raise SmaltiError(f"{name} must be at least 1, not {getattr(self, name)}")

    def bands(self, x: torch.Tensor, channels: int = 0) -> tuple[torch.Tensor, ...]:
        """Split a map into views of consecutive rows within `band_bytes`, also if they had `channels` channels."""
        B, C, _, W = x.shape
        return x.split(max(1, self.band_bytes // (4 * B * W * max(C, channels))), dim=2)


def _run(
    module: Decoder | Encoder, x: torch.Tensor, steps: list[tuple[nn.Module, _Plan]], plan: _Plan
) -> torch.Tensor:
    """Run first convolution, layers, last normalisation and convolution: (B, C, H, W) → float32, channels last."""
    # One frame rebinds x, so that a map is freed as soon as the next one is complete.
    x = _collect(_convolve(module.conv_in, plan.bands(x.float(), module.conv_in.out_channels)), x.shape[2])
    for layer, layer_plan in steps:
        x = _APPLY[type(layer)](layer, x, layer_plan)
    normalise = _normaliser(module.norm_out, plan.bands(x))
    bands = _convolve(module.conv_out, _active(normalise, plan.bands(x), torch.float32))
    return _collect(bands, x.shape[2])


def _block(block: ResnetBlock, x: torch.Tensor, plan: _Plan) -> torch.Tensor:
    channels = block.conv1.out_channels
    first = _normaliser(block.norm1, plan.bands(x))

    def inner() -> Iterable[torch.Tensor]:
        return _convolve(block.conv1, _active(first, plan.bands(x, channels), plan.dtype))

    kept = None
    inner_bytes = x[:, :1].numel() * channels * plan.dtype.itemsize
    if inner_bytes <= plan.keep_bytes and isinstance(block.norm2, nn.GroupNorm):
        # One tensor rather than a list of bands, which would leave the allocator in pieces.
        kept = plan.bands(_collect(inner(), x.shape[2], plan.dtype))
    second = _normaliser(block.norm2, kept or inner())
    active = _active(second, kept or inner(), plan.dtype)
    if hasattr(block, "nin_shortcut"):
        # The residual stream is not normalised: it can be beyond float16.
        dtype = torch.float32 if plan.dtype == torch.float16 else plan.dtype
        bands = (band.to(dtype) for band in plan.bands(x, channels))
        out = _collect((_convolve_rows(block.nin_shortcut, band) for band in bands), x.shape[2])
    else:
        out = x  # in place: when a row of the sum comes out, x has been read two rows further down
    top = 0
    for band in _convolve(block.conv2, active):
        out[:, :, top : top + band.shape[2]] += band
        top += band.shape[2]
    return out


def _attend(attention: AttentionBlock, x: torch.Tensor, plan: _Plan) -> torch.Tensor:
    B, C, H, W = x.shape
    normalise = _normaliser(attention.norm, plan.bands(x))
    hidden = normalise(x).to(plan.dtype)  # as a whole: attention is for the deepest level, whose map is small
    q, k, v = (
        _convolve_rows(layer, hidden).reshape(B, 1, C, H * W).transpose(2, 3)
        for layer in (attention.q, attention.k, attention.v)
    )
    # Some backends build the scores of every query that they are given.
    queries = q.split(max(1, plan.band_bytes // (4 * B * H * W)), dim=2)
    attended = torch.cat([F.scaled_dot_product_attention(part, k, v) for part in queries], dim=2)
    return x.add_(_convolve_rows(attention.proj_out, attended.transpose(2, 3).reshape(B, C, H, W)))


def _upsample(layer: Upsample, x: torch.Tensor, plan: _Plan) -> torch.Tensor:
    bands = plan.bands(x, 4 * x.shape[1])  # four times as many positions come out
    doubled = (F.interpolate(band.to(plan.dtype), scale_factor=2.0, mode="nearest") for band in bands)
    return _collect(_convolve(layer.conv, doubled), 2 * x.shape[2])


def _downsample(layer: Downsample, x: torch.Tensor, plan: _Plan) -> torch.Tensor:
    height = x.shape[2]
    rows = plan.bands(x)[0].shape[2] // 2 * 2 or 2
    windows = (x[:, :, top : top + rows + 1].to(plan.dtype) for top in range(0, height, rows))
    # Rows come in pairs and one of the next pair; the last window lacks that one, and pads.
    padded = (F.pad(window, (0, 1, 0, 1 - window.shape[2] % 2)) for window in windows)
    return _collect((_convolve_rows(layer.conv, band) for band in padded), height // 2)


_APPLY: dict[type, Callable[[Any, torch.Tensor, _Plan], torch.Tensor]] = {
    ResnetBlock: _block,
    AttentionBlock: _attend,
    Upsample: _upsample,
    Downsample: _downsample,
}


def _convolve(conv: nn.Conv2d, bands: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Convolve a map that arrives in bands, 3×3: each row comes out once the row below it has come in."""
    held: torch.Tensor | None = None
    for band in bands:
        held = F.pad(band, (0, 0, 1, 0)) if held is None else torch.cat([held, band], dim=2)
        if held.shape[2] > 2:
            yield _convolve_rows(conv, held)
            held = held[:, :, -2:].clone()  # a view would keep the whole band alive
    if held is not None:
        yield _convolve_rows(conv, F.pad(held, (0, 0, 0, 1)))


def _convolve_rows(conv: nn.Conv2d, rows: torch.Tensor) -> torch.Tensor:
    """Convolve in the dtype of `rows`, which include the rows above and below; only the sides are padded."""
    weight = conv.weight.to(rows.dtype)
    bias = None if conv.bias is None else conv.bias.to(rows.dtype)
    return F.conv2d(rows, weight, bias, conv.stride, padding=(0, int(conv.padding[1])))


def _active(
    normalise: Callable[[torch.Tensor], torch.Tensor], bands: Iterable[torch.Tensor], dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    """Normalise and activate each band, for a convolution."""
    return (F.silu(normalise(band), inplace=True).to(dtype) for band in bands)


def _normaliser(
    norm: PositionNorm | nn.GroupNorm, bands: Iterable[torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function that normalises a band of the map that `bands` make up, to a new float32 tensor.

    `bands` are read only if the normalisation needs statistics of the whole map.
    """
    weight, bias = norm.weight.float(), norm.bias.float()
    if isinstance(norm, PositionNorm):
        return lambda band: position_norm(band.float(), weight, bias)
    mean, variance = _statistics(bands, norm.num_groups)
    scale = weight * (variance + norm.eps).rsqrt()
    shift = bias - mean * scale
    return lambda band: (band.float() * scale[:, :, None, None]).add_(shift[:, :, None, None])


def _statistics(bands: Iterable[torch.Tensor], groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of each group of a map's channels, (B, C) float32, repeated for its channels.

    The squares of each channel of each band are summed around its own mean, so that no large sums are subtracted.
    They are merged into the earlier ones (Chan, Golub and LeVeque, 1979). No small tensor outlives a band: between
    bands it would leave the heap in pieces too small for the next band.
    """
    count, mean, squares = 0, torch.empty(0), torch.empty(0)
    for band in bands:
        band = band.float()
        new = band.shape[2] * band.shape[3]
        band_mean = band.mean(dim=(2, 3), keepdim=True)
        band_squares = (band - band_mean).square_().sum(dim=(2, 3))
        band_mean = band_mean[:, :, 0, 0]
        if count == 0:
            mean, squares = band_mean.clone(), band_squares.clone()
        else:
            apart = band_mean - mean
            squares += band_squares + apart.square() * (count * new / (count + new))
            mean += apart * (new / (count + new))
        count += new
    # Channels of a group are merged in one step, since each has the same count.
    means = mean.unflatten(1, (groups, -1))
    mean = means.mean(dim=2, keepdim=True)
    variance = (squares.unflatten(1, (groups, -1)) / count + (means - mean).square()).mean(
        dim=2, keepdim=True
    )
    return mean.expand_as(means).flatten(1), variance.expand_as(means).flatten(1)


def _collect(bands: Iterable[torch.Tensor], height: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Join the bands of a map of `height` rows, channels last."""
    out, top = torch.empty(0), 0
    for band in bands:
        if top == 0:
            shape = (*band.shape[:2], height, band.shape[3])
            out = torch.empty(shape, dtype=dtype, device=band.device, memory_format=torch.channels_last)
        out[:, :, top : top + band.shape[2]] = band
        top += band.shape[2]
    return out
