"""Groups of codes that look alike, for grouped cross-entropy (arXiv 2606.29814)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from smalti.common.checks import check_choice, check_whole
from smalti.common.files import atomic_path, parse_json
from smalti.common.randomness import generator as seeded
from smalti.errors import SmaltiError
from smalti.vq.kmeans import LARGEST, kmeans

KINDS = ("groups", "neighbours")

_CHUNK_ELEMENTS = 2**24  # distances held at a time: 64 MB in float32
_PAIRS = 8  # random pairs of each code, to estimate a mean distance
_TENSOR = "ids"
_METADATA = "code_groups"


@dataclass(frozen=True)
class GroupReport:
    """Sizes of groups, and how alike their codes are: Euclidean distances, means over 8 random pairs of each code.

    Attributes:
        smallest: size of the smallest group, in codes.
        median: median size, in codes.
        largest: size of the largest group, in codes.
        within: mean distance from a code to another of its group; None if no group has two codes.
        between: mean distance from a code to one outside its group; None if there is none outside.
    """

    smallest: int
    median: float
    largest: int
    within: float | None
    between: float | None


@dataclass(frozen=True, eq=False)
class CodeGroups:
    """Which codes count as alike: a partition of the codebook, or the nearest codes of each code.

    Attributes:
        ids: (V,) int64, the group of each code, from 0, no group empty; or (V, n) int64, the n nearest codes of each
            code, itself first.
        codebook: `fingerprint` of the codebook that the groups belong to.
        seed: seed that made the partition; None for neighbours.

    Raises:
        SmaltiError: `ids` are not as described.

    Example:
        >>> groups = CodeGroups.from_kmeans(torch.randn(64, 8), 4, seed=0)
        >>> groups.kind, groups.count, tuple(groups.ids.shape)
        ('groups', 4, (64,))
    """

    ids: torch.Tensor
    codebook: str
    seed: int | None = None

    def __post_init__(self) -> None:
        ids = self.ids
        if ids.ndim not in (1, 2) or not ids.numel():
            raise SmaltiError(f"ids must be (V,) or (V, n), not {tuple(ids.shape)}")
        if ids.dtype != torch.int64:
            raise SmaltiError(f"ids must be int64, not {str(ids.dtype).removeprefix('torch.')}")
        low, high, V = int(ids.min()), int(ids.max()), len(ids)
        if low < 0 or high >= V:
            raise SmaltiError(f"ids must be from 0 to at most {V - 1}, not {low} to {high}")
        if ids.ndim == 1:
            empty = (torch.bincount(ids) == 0).nonzero().flatten()
            if len(empty):
                raise SmaltiError(f"no group may be empty, but {len(empty)} are, such as {int(empty[0])}")
            return
        if not torch.equal(ids[:, 0], torch.arange(V)):
            raise SmaltiError("each code must be the first of its own neighbours")
        for part in ids.split(max(1, _CHUNK_ELEMENTS // ids.shape[1])):
            if (part.sort(dim=1).values.diff(dim=1) == 0).any():
                raise SmaltiError("no code may be twice among a code's neighbours")

    @property
    def kind(self) -> str:
        """Kind of the groups: "groups" for a partition, or "neighbours"."""
        return KINDS[self.ids.ndim - 1]

    @property
    def count(self) -> int:
        """Number of groups of a partition, or of neighbours of a code."""
        return int(self.ids.max()) + 1 if self.kind == "groups" else self.ids.shape[1]

    @classmethod
    def from_kmeans(cls, codebook: torch.Tensor, count: int, *, seed: int = 0) -> CodeGroups:
        """Partition a codebook (V, C) by k-means over its vectors. The same seed gives the same groups.

        Raises:
            SmaltiError: the codebook is not such a tensor of finite numbers, `count` is not from 1 to V, or the seed
                not from 0 to 2⁶⁴ − 1.
        """
        codes = _codes(codebook, "count", count)
        _, ids = kmeans(codes, count, generator=seeded(seed))
        return cls(ids, fingerprint(codebook), seed)

    @classmethod
    def from_neighbours(cls, codebook: torch.Tensor, n: int) -> CodeGroups:
        """Find the n nearest codes of each code of a codebook (V, C) by Euclidean distance, itself first.

        Raises:
            SmaltiError: as for `from_kmeans`.
        """
        codes = _codes(codebook, "n", n)
        # Products lose the digits that all vectors share, so these are subtracted first.
        codes = codes - codes.mean(dim=0)
        norms = codes.square().sum(dim=1)
        ids = torch.empty(len(codes), n, dtype=torch.int64)
        size = max(1, _CHUNK_ELEMENTS // len(codes))
        for start in range(0, len(codes), size):
            part = slice(start, start + size)
            distances = torch.addmm(norms, codes[part], codes.T, alpha=-2)
            distances.diagonal(start).fill_(-torch.inf)
            ids[part] = distances.topk(n, largest=False).indices
        return cls(ids, fingerprint(codebook))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all.

        Raises:
            SmaltiError: it cannot be written, or would replace a file that holds no groups.
        """
        # One string, because the order of several would change from file to file.
        values = {"kind": self.kind, "count": self.count, "seed": self.seed, "codebook": self.codebook}
        metadata = {_METADATA: json.dumps(values)}
        self.check_target(path)
        with atomic_path(path) as temporary:
            try:
                save_file({_TENSOR: self.ids.contiguous()}, temporary, metadata=metadata)
            except SafetensorError as error:
                raise SmaltiError(f"cannot write {path}: {error}") from error

    @classmethod
    def check_target(cls, path: str | Path) -> None:
        """Raise SmaltiError if a file of this name exists and holds no groups, such as a model's weights."""
        if os.path.exists(path):
            try:
                cls.load(path)
            except SmaltiError as error:
                raise SmaltiError(
                    f"{path} holds no code groups and would be lost: name another file"
                ) from error

    @classmethod
    def load(cls, path: str | Path, codebook: torch.Tensor | None = None) -> CodeGroups:
        """Read what `save` wrote.

        Args:
            path: the file.
            codebook: (V, C), the codebook that the groups must belong to; None to accept any.

        Raises:
            SmaltiError: the file is missing or damaged, holds anything else, or is of another codebook.
        """
        path = Path(path)
        if not os.path.isfile(path):
            raise SmaltiError(f"{path} does not exist")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = (file.metadata() or {}).get(_METADATA)
                # Copies: the file's own tensors are windows into the file.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise SmaltiError(f"{path} is truncated or not a safetensors file: {error}") from error
        try:
            groups = _parse(metadata, tensors)
        except SmaltiError as error:
            raise SmaltiError(f"{path} is not a file of code groups: {error}") from error
        if codebook is not None and groups.codebook != fingerprint(codebook):
            raise SmaltiError(f"{path} holds groups of another codebook")
        return groups

    def report(self, codebook: torch.Tensor, *, seed: int = 0) -> GroupReport:
        """Measure sizes, and how near the codes of a group are to each other, against other codes.

        Args:
            codebook: (V, C), the codebook that the groups belong to.
            seed: seed of the random pairs.

        Raises:
            SmaltiError: another codebook, or a seed that is out of range.
        """
        if self.codebook != fingerprint(codebook):
            raise SmaltiError("codebook must be the one that the groups belong to")
        codes = codebook.detach().cpu().float()
        generator = seeded(seed)
        within: list[torch.Tensor] = []
        between: list[torch.Tensor] = []
        for _ in range(_PAIRS):
            for found, draw in ((within, self._inside), (between, self._outside)):
                rows, partners = draw(generator)
                found.append((codes[rows] - codes[partners]).norm(dim=1))
        if self.kind == "groups":
            sizes = torch.bincount(self.ids)
        else:
            sizes = torch.full((len(self.ids),), self.count)
        return GroupReport(
            int(sizes.min()),
            float(sizes.double().quantile(0.5)),
            int(sizes.max()),
            _mean(within),
            _mean(between),
        )

    def _inside(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the codes that are not alone in their groups, and for each a random other code of its group."""
        codes = torch.arange(len(self.ids))
        draw = torch.rand(len(codes), dtype=torch.float64, generator=generator)
        if self.kind == "neighbours":
            column = 1 + (draw * (self.count - 1)).long()
            return (codes, self.ids[codes, column]) if self.count > 1 else (codes[:0], codes[:0])
        order, place, start, size = self._layout()
        partner = order[start + (place - start + 1 + (draw * (size - 1)).long()) % size]
        return codes[size > 1], partner[size > 1]

    def _outside(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the codes whose groups are not the whole codebook, and for each a random code outside its group."""
        V = len(self.ids)
        codes = torch.arange(V)
        if self.kind == "groups":
            order, _, start, size = self._layout()
            draw = torch.rand(V, dtype=torch.float64, generator=generator)
            # In the order of groups the codes outside a group follow it, once around.
            partner = order[(start + size + (draw * (V - size)).long()) % V]
            return codes[size < V], partner[size < V]
        if self.count == V:
            return codes[:0], codes[:0]
        partner = torch.randint(V, (V,), generator=generator)
        again = codes
        while len(again := again[(self.ids[again] == partner[again, None]).any(dim=1)]):
            partner[again] = torch.randint(V, (len(again),), generator=generator)
        return codes, partner

    def _layout(self) -> tuple[torch.Tensor, ...]:
        """Return the codes group by group, and for each code its place there, its group's start and size."""
        order = self.ids.argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        sizes = torch.bincount(self.ids)
        starts = sizes.cumsum(0) - sizes
        return order, place, starts[self.ids], sizes[self.ids]


def file_name(kind: str, count: int) -> str:
    """Return the name of groups in a model folder, such as groups-16384.safetensors.

    Raises:
        SmaltiError: `kind` is neither "groups" nor "neighbours".
    """
    check_choice("kind", kind, KINDS)
    return f"{kind}-{count}.safetensors"


def fingerprint(codebook: torch.Tensor) -> str:
    """Return a short hash of a codebook (V, C), the same in any dtype that holds the same numbers."""
    values = codebook.detach().cpu().float().contiguous()
    digest = hashlib.sha256(str(tuple(values.shape)).encode())
    digest.update(values.numpy().data)
    return digest.hexdigest()[:16]


def _codes(codebook: torch.Tensor, name: str, count: int) -> torch.Tensor:
    """Return the codebook's vectors in float32 on the CPU; check them, and that there are `count` of them."""
    if codebook.ndim != 2 or not codebook.numel() or not codebook.is_floating_point():
        raise SmaltiError(f"codebook must be floating-point (V, C), not {tuple(codebook.shape)}")
    codes = codebook.detach().cpu().float()
    if not codes.abs().max() <= LARGEST:
        raise SmaltiError(f"codebook must hold finite numbers of at most {LARGEST:g}")
    check_whole(name, count)
    if count > len(codes):
        raise SmaltiError(f"{name} must be from 1 to {len(codes)}, the number of codes, not {count}")
    return codes


def _parse(metadata: str | None, tensors: dict[str, torch.Tensor]) -> CodeGroups:
    """Build groups from what a file holds, checking all of it."""
    try:
        values: Any = parse_json(metadata or "", _METADATA)
    except ValueError:
        values = None
    if not isinstance(values, dict) or values.keys() != {"kind", "count", "seed", "codebook"}:
        raise SmaltiError(f"its metadata must hold {_METADATA} with kind, count, seed and codebook")
    check_choice("kind", values["kind"], KINDS)
    if values["kind"] == "groups":
        check_whole("seed", values["seed"], 0)
    elif values["seed"] is not None:
        raise SmaltiError(f"neighbours have no seed, not {values['seed']!r}")
    if not isinstance(values["codebook"], str):
        raise SmaltiError(f"codebook must be a fingerprint, not {values['codebook']!r}")
    if tensors.keys() != {_TENSOR}:
        raise SmaltiError(
            f"it must hold the tensor {_TENSOR} alone, not {', '.join(sorted(tensors)) or 'none'}"
        )
    groups = CodeGroups(tensors[_TENSOR], values["codebook"], values["seed"])
    if (groups.kind, groups.count) != (values["kind"], values["count"]):
        raise SmaltiError(
            f"it must hold {values['kind']}, {values['count']!r}, not {groups.kind}, {groups.count}"
        )
    return groups


def _mean(parts: list[torch.Tensor]) -> float | None:
    values = torch.cat(parts)
    return float(values.mean(dtype=torch.float64)) if len(values) else None
