"""Token shards: written by any number of processes, mapped, damaged, interrupted."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smalti.common.arrays import ArrayFile
from smalti.data import encoding
from smalti.data.config import TokensConfig
from smalti.data.encoding import TokenPlan
from smalti.data.images import CaptionedImage
from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError


def encode(pixels: torch.Tensor) -> torch.Tensor:
    return pixels[:, 0].long()


def image(number: int, shape: tuple[int, int] = (2, 2), **changes: Any) -> CaptionedImage:
    pixels = torch.full((3, *shape), number % 200, dtype=torch.uint8)
    pixels[:, :, 0] += 1
    captions = (f"image {number}", f"größer {number}")[: 1 + number % 2]
    return CaptionedImage(pixels, captions, f"{number}.png", (shape[1], shape[0]), **changes)


def plan(folder: Path, samples: int = 10, **changes: Any) -> TokenPlan:
    values = {"metadata": {"data": 1}, "samples": samples, "codes": 256, "downscale": 1, **changes}
    return TokenPlan(folder, **values)


def build(wanted: TokenPlan, images: list[CaptionedImage | None] | None = None) -> TokenShards:
    images = images or [image(number) for number in range(wanted.samples)]
    assert not wanted.begin()
    for shard in wanted.missing():
        wanted.write(shard, (images[number] for number in wanted.covered(shard)), encode, batch_size=3)
    return wanted.finish()


def test_writing_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SHARD_IMAGES", 4)
    wanted = plan(tmp_path)
    assert not wanted.begin() and wanted.missing() == [0, 1, 2]

    def killed() -> Iterator[CaptionedImage]:
        yield image(4)
        raise KeyboardInterrupt

    wanted.write(0, map(image, wanted.covered(0)), encode, 3)
    with pytest.raises(KeyboardInterrupt):
        wanted.write(1, killed(), encode, 3)
    with pytest.raises(SmaltiError, match="tokens.json does not exist"):
        TokenShards(tmp_path)
    assert plan(tmp_path).missing() == [1, 2] and not list(tmp_path.glob(".*"))
    shards = build(wanted)
    assert len(shards) == 10 and shards.captions == 15
    for number in range(10):
        tokens, weights = shards.tokens(number)
        assert tokens.tolist() == [[number + 1, number]] * 2 and weights is None
        assert shards.captions_of(number) == list(image(number).captions)
        assert shards.name(number) == f"{number}.png"
    assert list(shards.all_captions())[:3] == ["image 0", "image 1", "größer 1"]
    assert plan(tmp_path).begin() and shards.kinds() is None
    assert list(shards.rows_with_long_captions(8)) == [1, 3, 5, 7, 9]
    shards.prefetch(range(10))


@pytest.mark.parametrize("codes", [2, 256, 2**16, 2**16 + 1, 2**17, 2**17 + 1, 2**20])
def test_tokens_of_any_codebook(tmp_path: Path, codes: int) -> None:
    generator = torch.Generator().manual_seed(codes)
    grids = [torch.randint(codes, (3, 5), generator=generator) for _ in range(4)]
    grids[0][0, :2] = torch.tensor([0, codes - 1])
    found = iter([torch.stack(grids), torch.stack(grids).flip(2)])
    mask = np.zeros((3, 5), np.uint8)
    mask[1, 1:3] = 255, 100
    images = [image(number, (3, 5), mask=mask if number == 2 else None) for number in range(4)]
    wanted = plan(tmp_path, 4, codes=codes, mirrored=True)
    wanted.begin()
    wanted.write(0, images, lambda pixels: next(found), 4)
    shards = wanted.finish()
    for row, grid in enumerate(grids):
        for flip in (False, True):
            tokens, weights = shards.tokens(row, flip=flip)
            assert tokens.tolist() == (grid.flip(1) if flip else grid).tolist()
            expected = mask[:, ::-1] if flip else mask
            assert (weights is None) == (row != 2)
            assert weights is None or (weights == expected).all()
    each = {256: 2, 2**17: 2}.get(codes)
    if each:
        size = 15 * each + (2 if codes > 2**16 else 0)
        assert len(ArrayFile(tmp_path / "shard-00000.safetensors")["records"]) == 4 * 2 * size + 15


def test_images_of_several_shapes_and_broken_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SHARD_IMAGES", 4)
    shapes = [(2, 2), (1, 4), (2, 2), (4, 1), (1, 4), (2, 2), (2, 2)]
    images: list[CaptionedImage | None] = [image(n, shape) for n, shape in enumerate(shapes)]
    images[2] = None
    images[3] = images[3] and images[3]._replace(size=(2, 8))
    shards = build(plan(tmp_path, 7), images)
    assert len(shards) == 6 and shards.grids == {(2, 2): 3, (1, 4): 2, (4, 1): 1}
    found = shards.kinds()
    assert found is not None
    kept = [shape for n, shape in enumerate(shapes) if n != 2]
    assert [found[0][kind] for kind in found[1]] == kept
    assert [shards.tokens(row)[0].shape for row in range(6)] == kept
    assert [shards.name(row) for row in range(6)] == [f"{n}.png" for n in (0, 1, 3, 4, 5, 6)]
    tall = next(bucket for bucket in shards.buckets if bucket.height == 4)
    assert (tall.images, tall.cropped, tall.enlarged) == (1, 0.0, 0)
    with pytest.raises(SmaltiError, match="none of the 2 images can be read"):
        build(plan(tmp_path / "none", 2), [None, None])


@pytest.mark.parametrize("name", ["tokens.json", "started.json"])
def test_what_differs_is_named(tmp_path: Path, name: str) -> None:
    build(plan(tmp_path, 1, metadata={"files": "a", "data": 1}))
    if name == "started.json":
        (tmp_path / "tokens.json").unlink()
    with pytest.raises(SmaltiError, match="holds a cache of other images: its files and samples differ"):
        plan(tmp_path, 2, metadata={"files": "b", "data": 1}).begin()


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "missing"])
def test_shards_of_another_size_are_named(tmp_path: Path, damage: str) -> None:
    build(plan(tmp_path, 1))
    path = tmp_path / "shard-00000.safetensors"
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"cut": data[:-1], "longer": data + b"x", "empty": b""}[damage])
    with pytest.raises(SmaltiError, match=r"shard-00000.safetensors is (missing|cut short)") as caught:
        TokenShards(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) - 2 * len(str(tmp_path)) < 300


def test_damage_inside_a_shard_is_named_when_it_is_met(tmp_path: Path) -> None:
    shards = build(plan(tmp_path, 1))
    path = tmp_path / "shard-00000.safetensors"
    data = path.read_bytes()
    for start in range(0, len(data), 7):
        path.write_bytes(data[:start] + bytes(7 for _ in data[start : start + 7]) + data[start + 7 :])
        shards = TokenShards(tmp_path)
        try:
            shards.tokens(0)
            shards.captions_of(0)
        except SmaltiError as error:
            assert "shard-00000.safetensors" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 99),
        ("shards", [[2, 1, 5]]),
        ("shards", "x"),
        ("codes", 0),
        ("buckets", [{"x": 1}]),
        ("grids", []),
        ("metadata", None),
        ("metadata", [1]),
        ("codes", float("inf")),
        ("shards", 10**30),
    ],
)
def test_odd_descriptions_are_named(tmp_path: Path, key: str, value: Any) -> None:
    build(plan(tmp_path, 1))
    path = tmp_path / "tokens.json"
    values = json.loads(path.read_text())
    for changed in ({**values, key: value}, {name: other for name, other in values.items() if name != key}):
        path.write_text(json.dumps(changed))
        with pytest.raises(SmaltiError, match=r"tokens.json (is damaged|must have format 1)"):
            TokenShards(tmp_path)


def test_tokens_of_an_older_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cache.json").write_text("{}")
    for use in (plan(tmp_path).begin, lambda: TokenShards(tmp_path)):
        with pytest.raises(SmaltiError, match="holds tokens of an older version: delete or rename it"):
            use()
    (tmp_path / "cache.json").rename(tmp_path / "started.json")
    with pytest.raises(SmaltiError, match="holds tokens that another version began"):
        plan(tmp_path).begin()


def test_a_full_disk_loses_one_shard_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SHARD_IMAGES", 4)
    wanted = plan(tmp_path, 8)
    wanted.begin()
    wanted.write(0, map(image, range(4)), encode)
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left"))
        )
        with pytest.raises(SmaltiError, match=r"cannot write .*shard-00001.safetensors: No space left"):
            wanted.write(1, map(image, range(4, 8)), encode)
    assert wanted.missing() == [1] and sorted(os.listdir(tmp_path)) == [
        "shard-00000.safetensors",
        "started.json",
    ]
    assert len(build(wanted)) == 8


def test_a_cache_cannot_be_a_file() -> None:
    with pytest.raises(SmaltiError, match="cannot write /dev/null"):
        plan(Path("/dev/null")).begin()


@pytest.mark.parametrize("metadata", [{}, {"data": [1]}, {"data": {"size": "x"}}])
def test_tokens_say_the_size_of_their_images(tmp_path: Path, metadata: Any) -> None:
    build(plan(tmp_path, 1))
    values = json.loads((tmp_path / "tokens.json").read_text())
    (tmp_path / "tokens.json").write_text(json.dumps({**values, "metadata": metadata}))
    with pytest.raises(SmaltiError, match="must say the size of its images"):
        TokensConfig(path=str(tmp_path)).size  # noqa: B018 - a property that reads
