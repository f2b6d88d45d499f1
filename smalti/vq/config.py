"""The image tokenizer's configuration: the fields of its `config.json`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from smalti.common.checks import check_choice, check_whole, quoted
from smalti.errors import SmaltiError

_CHOICES = {"encoder": ("vqgan", "patch", "linear"), "norm": ("group", "position")}
# Largest sizes that are built, far beyond those of known models: a wrong file must not cost minutes or all memory.
_LARGEST = {
    "ch": 2**14,
    "num_res_blocks": 64,
    "resolution": 2**16,
    "in_channels": 2**10,
    "out_ch": 2**10,
    "z_channels": 2**16,
    "embed_dim": 2**16,
    "codebook_size": 2**24,
    "patch_size": 2**8,
    "norm_groups": 2**14,
}
# Most entries of a list, and the largest one.
_LISTS = {"ch_mult": (10, 2**8), "attn_resolutions": (64, 2**16)}


@dataclass(frozen=True)
class VQConfig:
    """Shape of the VQGAN and its codebook.

    The names are those of the reference model's `emu3_vqvae/config.json` (docs/format.md, sections 1 and 2), and so are
    the defaults. `encoder`, `patch_size`, `norm` and `norm_groups` are Smalti extensions.

    Attributes:
        ch: channels of the first level; level i has `ch * ch_mult[i]`.
        ch_mult: one factor a level; the image is halved between levels.
        num_res_blocks: residual blocks a level in the encoder; the decoder has one more.
        attn_resolutions: sides in pixels, for an image of side `resolution`, at which blocks get attention.
        resolution: nominal side in pixels that `attn_resolutions` refers to.
        z_channels: channels of the encoder's output.
        embed_dim: dimension of a code.
        codebook_size: number of codes V.
        encoder: "vqgan" is the classic one, whose tokens depend on their surroundings. "patch" sees the pixels of one
            token alone. "linear" is a linear map of these pixels; its token is the nearest code, and the decoder adds
            a linear map of the code.
        patch_size: pixels a side that are folded into channels before the first convolution and unfolded after
            the last one. 1 is the classic VQGAN; 4 makes a tokenizer for CPUs, at a sixteenth of the work of the
            first level.
        norm: kind of normalisation. "group" is the classic VQGAN's GroupNorm, with statistics over the whole image.
            "position" normalises the channels of each position alone: a token then does not depend on the rest of
            the image through it.
        norm_groups: groups of every GroupNorm.
    """

    ch: int = 256
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    resolution: int = 256
    in_channels: int = 3
    out_ch: int = 3
    z_channels: int = 256
    embed_dim: int = 256
    codebook_size: int = 131072
    encoder: str = "vqgan"
    patch_size: int = 1
    norm: str = "group"
    norm_groups: int = 32

    def __post_init__(self) -> None:
        for name, (most, largest) in _LISTS.items():
            value = getattr(self, name)
            entries = list(value) if isinstance(value, list | tuple) else [None]
            if len(entries) > most or not all(type(one) is int and 1 <= one <= largest for one in entries):
                raise SmaltiError(
                    f"{name} must be a list of up to {most} positive whole numbers of at most {largest}, "
                    f"not {quoted(value)}"
                )
            object.__setattr__(self, name, tuple(entries))
        for name, allowed in _CHOICES.items():
            check_choice(name, getattr(self, name), allowed)
        for name, largest in _LARGEST.items():
            check_whole(name, getattr(self, name), 1, largest)
        if not self.ch_mult:
            raise SmaltiError("ch_mult must name at least one level")
        for mult in self.ch_mult:
            if self.norm == "group" and self.ch * mult % self.norm_groups:
                raise SmaltiError(
                    f"norm_groups {self.norm_groups} must divide the channels of every level, not {self.ch * mult}"
                )

    @property
    def downscale(self) -> int:
        """Pixels along a token's side."""
        return self.patch_size * 2 ** (len(self.ch_mult) - 1)

    def attends(self, level: int) -> bool:
        """Return whether the blocks of `level` (0 is the finest) are followed by attention."""
        return self.resolution // self.patch_size // 2**level in self.attn_resolutions

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VQConfig:
        """Read the fields that matter from a `config.json`; others, such as training settings, are ignored."""
        names = {field.name for field in dataclasses.fields(cls)}
        if values.get("double_z"):
            raise SmaltiError("double_z must be false: a vector quantizer has no variance to predict")
        return cls(**{name: value for name, value in values.items() if name in names})

    def to_dict(self) -> dict[str, Any]:
        """Return the `config.json` of this tokenizer."""
        values = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }
        return {"architectures": ["Emu3p5VisionVQModel"], "model_type": "Emu3p5VisionVQ", **values}
