"""Aspect-ratio buckets, and sets of images that use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smalti.data.buckets import Bucket, bucket_shapes, bucket_table, cropped_share, nearest_shape
from smalti.data.config import BucketsConfig, FolderConfig
from smalti.data.folder import ImageFolder
from smalti.errors import SmaltiError


@pytest.mark.parametrize(("size", "step"), [(256, 64), (1024, 64), (96, 32), (256, 32)])
def test_shapes_have_about_one_area(size: int, step: int) -> None:
    shapes = BucketsConfig(step=step).shapes(size)
    assert (size, size) in shapes and len(shapes) == len(set(shapes))
    assert {(w, h) for h, w in shapes} == set(shapes)
    for height, width in shapes:
        assert height % step == width % step == 0 and height * width <= size * size
        assert max(height, width) <= 2 * size and min(height, width) >= size // 2
        assert height * (width + step) > size * size or height < width or width + step > 2 * size


def test_wrong_limits_are_named() -> None:
    for arguments, message in (
        ((100, 64, 64, 128), "size must be a multiple of buckets.step, 64, not 100"),
        ((128, 64, 70, 128), "shortest must be a multiple of buckets.step, 64, not 70"),
        ((128, 64, 192, 256), "shortest and longest must have size, 128, between them, not 192 and 256"),
    ):
        with pytest.raises(SmaltiError, match=message):
            bucket_shapes(*arguments)
    with pytest.raises(ValueError, match=r"size must be a multiple of buckets.step, 64, not 100"):
        FolderConfig(path="x", size=100, buckets=BucketsConfig())


def test_an_image_takes_the_nearest_shape(tmp_path: Path) -> None:
    shapes = bucket_shapes(64, 16, 32, 128)
    assert nearest_shape(1000, 10, shapes) == (32, 128) and nearest_shape(3, 4, shapes) == (80, 48)
    sizes = [(64, 64), (50, 200), (200, 50), (100, 60), (30, 40)]
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("black")
    folder = ImageFolder(tmp_path, 64, shapes=shapes)
    found = [tuple(sample["image"].shape[1:]) for sample in folder]
    assert found == [(64, 64), (128, 32), (32, 128), (48, 80), (80, 48)]
    share = cropped_share(np.array([100.0, 64.0]), np.array([50.0, 64.0]), (64, 64))
    assert share.tolist() == [0.5, 0.0]


def test_the_table_has_every_image() -> None:
    table = bucket_table([Bucket(64, 64, 30, 0.1, 3), Bucket(32, 128, 970, 0.2, 0)])
    assert table.splitlines() == [
        "width×height  images    share  cropped away  enlarged",
        "      128×32     970   97.0 %        20.0 %         0",
        "       64×64      30    3.0 %        10.0 %         3",
        "         all   1,000  100.0 %        19.7 %         3",
    ]
