"""How many images are decoded at once as whole feature maps, and whether any: from the memory that is free."""

from __future__ import annotations

import torch

from smalti.vq.banded import largest_map_bytes
from smalti.vq.config import VQConfig

WHOLE_BYTES = 2**28
"""Size of a float32 feature map above which a CPU computes in bands, which are faster there than whole maps."""

# Maps as large as the largest that are alive at a time, workspaces of convolutions included.
_MAPS = {"cpu": 5, "cuda": 7.5}
# A pass of several images takes no more than this, unless one image does.
_TOGETHER = 2**31
_KEPT_FREE = 0.1  # share of the free memory that is left alone


def images_at_once(
    config: VQConfig,
    height: int,
    width: int,
    *,
    kind: str,
    itemsize: int = 4,
    room: int | None = None,
) -> int:
    """Return how many images of height × width pixels are decoded at once as whole maps; 0 means in bands.

    Args:
        config: the image tokenizer.
        height, width: size of an image in pixels.
        kind: kind of the device, such as "cuda".
        itemsize: bytes of a number of the maps.
        room: bytes that decoding may take, or None if that is not known.

    Example:
        >>> images_at_once(VQConfig(), 1024, 1024, kind="cuda", room=16 * 10**9)
        1
        >>> images_at_once(VQConfig(), 1024, 1024, kind="cuda", room=6 * 10**9)
        0
    """
    largest = largest_map_bytes(config, height, width)
    if largest > WHOLE_BYTES and (kind == "cpu" or room is None):
        return 0
    if room is None:
        return 1
    one = round(largest * itemsize / 4 * _MAPS.get(kind, _MAPS["cuda"]))
    fitting = int(room * (1 - _KEPT_FREE)) // one
    return min(fitting, max(1, _TOGETHER // one))


def in_layout(z: torch.Tensor) -> torch.Tensor:
    """Return the decoder's input in the layout that is fastest: channels last on a CPU, and elsewhere in 16 bits."""
    last = z.device.type == "cpu" or z.dtype.itemsize == 2
    return z.contiguous(memory_format=torch.channels_last) if last else z
