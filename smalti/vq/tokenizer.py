"""The image tokenizer: images to grids of token ids and back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from smalti.common.devices import available_bytes, exact_convolutions
from smalti.errors import SmaltiError
from smalti.vq.autoencoder import Decoder, Encoder, LinearEncoder, PatchEncoder
from smalti.vq.banded import decode_in_bands, encode_in_bands, largest_map_bytes
from smalti.vq.config import VQConfig
from smalti.vq.layers import AttentionBlock, ResnetBlock
from smalti.vq.quantizer import Quantized, Quantizer
from smalti.vq.whole import WHOLE_BYTES, images_at_once, in_layout

_ENCODERS = {"vqgan": Encoder, "patch": PatchEncoder, "linear": LinearEncoder}


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """Convert uint8 pixels to float32 in [-1, 1] (RGB / 127.5 − 1, docs/format.md, section 6)."""
    return pixels.float() / 127.5 - 1.0


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Convert float images to uint8: clamp to [-1, 1], (x + 1)/2 · 255, truncated (docs/format.md, section 6)."""
    return ((images.float().clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0).to(torch.uint8)


def _check_finite(values: torch.Tensor) -> None:
    """Raise SmaltiError for NaN or infinity. The sum of finite numbers may overflow, so it is only a first look."""
    if not bool(values.sum(dtype=torch.float32).isfinite()) and not bool(values.isfinite().all()):
        raise SmaltiError("the image tokenizer's output is not finite: its weights or its dtype are unfit")


class ImageTokenizer(nn.Module):
    """VQGAN encoder and decoder around a codebook; tensor names of docs/format.md, section 1."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _ENCODERS[config.encoder](config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
        self.quantize = Quantizer(config)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.quant_conv.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.quant_conv.weight.dtype

    @torch.no_grad()
    def init_weights(self) -> None:
        """Set the convolutions for training from scratch.

        Each keeps its input's variance. Every residual block and attention starts as the identity, so that colours
        pass from end to end from the first step. Beside a linear map the convolutions start at zero.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResnetBlock):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, AttentionBlock):
                nn.init.zeros_(module.proj_out.weight)
        if self.config.encoder == "linear":
            nn.init.zeros_(self.decoder.conv_out.weight)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features before quantization: (B, 3, H, W) in [-1, 1] → (B, embed_dim, h, w).

        Raises:
            SmaltiError: a side is not a multiple of the tokenizer's downscale.
        """
        height, width = self._check_sides(images)
        if isinstance(self.encoder, Encoder) and self._wants_bands(height, width):
            encoded = [encode_in_bands(self.encoder, one) for one in images.split(1)]
            return self.quant_conv(torch.cat(encoded).to(images.dtype))
        return self.quant_conv(self.encoder(images))

    def _precise_features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute `features` in float32, also with weights in 16 bits, because codes depend on the last bits."""
        precise = torch.promote_types(self.dtype, torch.float32)
        images = images.to(precise)
        if self.dtype == precise:
            return self.features(images)
        self._check_sides(images)
        if isinstance(self.encoder, Encoder):
            encoded = torch.cat([encode_in_bands(self.encoder, one) for one in images.split(1)])
        else:
            weights = {name: value.to(precise) for name, value in self.encoder.state_dict().items()}
            encoded = torch.func.functional_call(self.encoder, weights, (images,))
        last = self.quant_conv
        return F.conv2d(
            encoded, last.weight.to(precise), None if last.bias is None else last.bias.to(precise)
        )

    def _check_sides(self, images: torch.Tensor) -> tuple[int, int]:
        """Return height and width, or raise SmaltiError unless they are multiples of the downscale."""
        height, width = images.shape[-2:]
        side = self.config.downscale
        if height % side or width % side or not height or not width:
            raise SmaltiError(
                f"image sides must be positive multiples of {side} pixels, not {width}×{height}"
            )
        return height, width

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return token ids: (B, 3, H, W) float in [-1, 1] → (B, h, w) int64, equal on all devices up to ties.

        Weights in 16 bits are multiplied in float32.

        Raises:
            SmaltiError: the features are not finite, or a side is not a multiple of the tokenizer's downscale.
        """
        with exact_convolutions():
            features = self._precise_features(images)
            _check_finite(features)
            return self.quantize.tokens(features)

    def decode(
        self, tokens: torch.Tensor, *, dtype: torch.dtype = torch.float32, room: int | None = None
    ) -> torch.Tensor:
        """Decode token ids: (B, h, w) int64 → (B, 3, H, W) float, about [-1, 1], not clamped.

        Feature maps are computed as a whole where the device's free memory allows, of several images at once if they
        are small, and in bands otherwise (`smalti.vq.whole.images_at_once`). Both are equal up to rounding. In bands a
        1024² image of the reference model takes 1.5 GB beyond the weights. A decoder in float16, whose whole maps can
        overflow, always works in bands, which keep their maps in float32. Bands carry no gradient, so with gradients
        enabled images are decoded as a whole.

        Args:
            tokens: (B, h, w) int64 ids.
            dtype: dtype of products as in `decode_in_bands`, if bands are used. The error of bfloat16 is about 1/255.
            room: bytes that decoding may take, if less than the device has free.

        Raises:
            SmaltiError: an id lies outside the codebook (a mask that was never filled, for example).
        """
        if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= self.config.codebook_size):
            raise SmaltiError(
                f"token ids must be from 0 to {self.config.codebook_size - 1}, "
                f"not {int(tokens.min())} to {int(tokens.max())}"
            )
        z = self.post_quant_conv(self.quantize.lookup(tokens))
        # The decoder may be held in fewer bits than the codebook.
        own = self.decoder.conv_in.weight.dtype
        if torch.is_grad_enabled():
            return self.decoder(z.to(own))
        count = 0 if own == torch.float16 else self._images_at_once(z, own, room)
        if count:
            try:
                return torch.cat([self.decoder(in_layout(part.to(own))) for part in z.split(count)])
            except torch.OutOfMemoryError:
                # Others may have taken memory since, or a convolution wants more than is counted.
                torch.cuda.empty_cache()
        return torch.cat([decode_in_bands(self.decoder, one, dtype=dtype) for one in z.split(1)])

    def _images_at_once(self, z: torch.Tensor, dtype: torch.dtype, room: int | None) -> int:
        """Return `images_at_once` for the decoder's input and the memory that is free now."""
        free = available_bytes(z.device)
        rooms = [one for one in (free, room) if one is not None]
        height, width = (side * self.config.downscale for side in z.shape[2:])
        return images_at_once(
            self.config,
            height,
            width,
            kind=z.device.type,
            itemsize=dtype.itemsize,
            room=min(rooms) if rooms else None,
        )

    def from_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return token ids of pixels: (B, 3, H, W) uint8 → (B, h, w) int64."""
        return self.encode(to_float(pixels))

    def to_pixels(
        self, tokens: torch.Tensor, *, dtype: torch.dtype = torch.float32, room: int | None = None
    ) -> torch.Tensor:
        """Decode token ids to pixels: (B, h, w) int64 → (B, 3, H, W) uint8; `dtype` and `room` as for `decode`.

        Raises:
            SmaltiError: the pixels are not finite, or an id lies outside the codebook.
        """
        images = self.decode(tokens, dtype=dtype, room=room)
        _check_finite(images)
        return to_uint8(images)

    def forward(self, images: torch.Tensor, temperature: float) -> tuple[torch.Tensor, Quantized]:
        """Reconstruct for training: (B, 3, H, W) → the reconstruction and the quantizer's result."""
        quantized = self.quantize(self.features(images), temperature)
        return self.decoder(self.post_quant_conv(quantized.z.to(images.dtype))), quantized

    def without_codes(self, images: torch.Tensor) -> torch.Tensor:
        """Reconstruct from features on the unit sphere instead of codes, as the first steps of training do."""
        return self.decoder(self.post_quant_conv(F.normalize(self.features(images), dim=1)))

    def _wants_bands(self, height: int, width: int) -> bool:
        return not torch.is_grad_enabled() and largest_map_bytes(self.config, height, width) > WHOLE_BYTES
