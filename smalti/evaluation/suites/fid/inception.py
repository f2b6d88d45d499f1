"""FID's Inception network: TensorFlow's graph of 2015-12-05, with its own pools, up to 2,048 features.

Names of layers are those of the published PyTorch weights (Apache-2.0), which `tools/convert_scorer.py` converts.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from smalti.errors import SmaltiError

SIDE = 299
"""Side in pixels of the images that the network reads."""

Size = int | tuple[int, int]


class Conv(nn.Module):
    """A convolution without bias, batch normalisation, and a ReLU; borders are padded to keep the size, if `same`."""

    def __init__(self, before: int, after: int, size: Size, stride: int = 1, same: bool = True) -> None:
        super().__init__()
        sides = (size, size) if isinstance(size, int) else size
        padding = (sides[0] // 2, sides[1] // 2) if same else (0, 0)
        self.conv = nn.Conv2d(before, after, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches of convolutions and a pool, whose channels are joined.

    A branch is a list of names of layers. A name "a+b" stands for two layers that read the same and are joined.

    Args:
        layers: layers by name.
        branches: names of the layers of each branch.
        pool: "average" (without the padded zeros), "largest", or "halve" (the largest, at half the size).
    """

    def __init__(self, layers: dict[str, Conv], branches: list[list[str]], pool: str) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.branches, self.pool = branches, pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = []
        for branch in self.branches:
            value = x
            for names in branch:
                value = torch.cat([self.get_submodule(name)(value) for name in names.split("+")], dim=1)
            found.append(value)
        if self.pool == "halve":
            return torch.cat([*found, F.max_pool2d(x, 3, 2)], dim=1)
        if self.pool == "largest":
            pooled = F.max_pool2d(x, 3, 1, 1)
        else:
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([*found, self.get_submodule("branch_pool")(pooled)], dim=1)


def _block_a(before: int, pooled: int) -> Block:
    layers = {
        "branch1x1": Conv(before, 64, 1),
        "branch5x5_1": Conv(before, 48, 1),
        "branch5x5_2": Conv(48, 64, 5),
        "branch3x3dbl_1": Conv(before, 64, 1),
        "branch3x3dbl_2": Conv(64, 96, 3),
        "branch3x3dbl_3": Conv(96, 96, 3),
        "branch_pool": Conv(before, pooled, 1),
    }
    branches = [["branch1x1"], ["branch5x5_1", "branch5x5_2"], [f"branch3x3dbl_{i}" for i in (1, 2, 3)]]
    return Block(layers, branches, "average")


def _block_b(before: int) -> Block:
    layers = {
        "branch3x3": Conv(before, 384, 3, 2, same=False),
        "branch3x3dbl_1": Conv(before, 64, 1),
        "branch3x3dbl_2": Conv(64, 96, 3),
        "branch3x3dbl_3": Conv(96, 96, 3, 2, same=False),
    }
    return Block(layers, [["branch3x3"], [f"branch3x3dbl_{i}" for i in (1, 2, 3)]], "halve")


def _block_c(before: int, inner: int) -> Block:
    wide, tall = (1, 7), (7, 1)
    layers = {
        "branch1x1": Conv(before, 192, 1),
        "branch7x7_1": Conv(before, inner, 1),
        "branch7x7_2": Conv(inner, inner, wide),
        "branch7x7_3": Conv(inner, 192, tall),
        "branch7x7dbl_1": Conv(before, inner, 1),
        "branch7x7dbl_2": Conv(inner, inner, tall),
        "branch7x7dbl_3": Conv(inner, inner, wide),
        "branch7x7dbl_4": Conv(inner, inner, tall),
        "branch7x7dbl_5": Conv(inner, 192, wide),
        "branch_pool": Conv(before, 192, 1),
    }
    long = [[f"branch7x7_{i}" for i in (1, 2, 3)], [f"branch7x7dbl_{i}" for i in range(1, 6)]]
    return Block(layers, [["branch1x1"], *long], "average")


def _block_d(before: int) -> Block:
    layers = {
        "branch3x3_1": Conv(before, 192, 1),
        "branch3x3_2": Conv(192, 320, 3, 2, same=False),
        "branch7x7x3_1": Conv(before, 192, 1),
        "branch7x7x3_2": Conv(192, 192, (1, 7)),
        "branch7x7x3_3": Conv(192, 192, (7, 1)),
        "branch7x7x3_4": Conv(192, 192, 3, 2, same=False),
    }
    branches = [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in (1, 2, 3, 4)]]
    return Block(layers, branches, "halve")


def _block_e(before: int, pool: str) -> Block:
    layers = {
        "branch1x1": Conv(before, 320, 1),
        "branch3x3_1": Conv(before, 384, 1),
        "branch3x3_2a": Conv(384, 384, (1, 3)),
        "branch3x3_2b": Conv(384, 384, (3, 1)),
        "branch3x3dbl_1": Conv(before, 448, 1),
        "branch3x3dbl_2": Conv(448, 384, 3),
        "branch3x3dbl_3a": Conv(384, 384, (1, 3)),
        "branch3x3dbl_3b": Conv(384, 384, (3, 1)),
        "branch_pool": Conv(before, 192, 1),
    }
    branches = [
        ["branch1x1"],
        ["branch3x3_1", "branch3x3_2a+branch3x3_2b"],
        ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a+branch3x3dbl_3b"],
    ]
    return Block(layers, branches, pool)


class Inception(nn.Module):
    """FID's network, from (B, 3, 299, 299) in −1 to 1 to features (B, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2, same=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, same=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _block_a(192, 32), _block_a(256, 64), _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b, self.Mixed_6c = _block_c(768, 128), _block_c(768, 160)
        self.Mixed_6d, self.Mixed_6e = _block_c(768, 160), _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        # The last block pools the largest value, unlike the paper: the published graph does.
        self.Mixed_7b, self.Mixed_7c = _block_e(1280, "average"), _block_e(2048, "largest")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name, layer in self.named_children():
            x = layer(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        return x.mean(dim=(2, 3))


def load_inception(path: Path) -> Inception:
    """Return the network with the weights of a safetensors file; those of its classes are left out.

    Raises:
        SmaltiError: the file is missing, or holds other weights.
    """
    from safetensors.torch import load_file

    with torch.device("meta"):
        network = Inception()
    try:
        tensors = {name: one for name, one in load_file(path).items() if not name.startswith("fc.")}
        network.load_state_dict(tensors, assign=True)
    except Exception as error:  # safetensors and PyTorch raise errors of several kinds
        reason = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
        raise SmaltiError(
            f"weights must be a safetensors file of FID's Inception, as tools/convert_scorer.py writes it, "
            f"not {path}: {reason}",
            argument="weights",
        ) from error
    return network.float().eval()
