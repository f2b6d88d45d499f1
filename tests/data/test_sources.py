"""Sources of images: batches by number."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from smalti.data.folder import ImageFolder
from smalti.data.order import shuffled_rows
from smalti.data.sources import source_batch, stack_images
from smalti.worlds.scenes.world import Scenes


def test_stream_of_shuffled_passes_can_be_entered_anywhere() -> None:
    whole = shuffled_rows(7, range(40), seed=3)
    assert all(sorted(whole[start : start + 7]) == list(range(7)) for start in range(0, 35, 7))
    assert whole[:7] != whole[7:14]
    assert shuffled_rows(7, range(11, 20), seed=3) == whole[11:20]


def test_batches_of_an_endless_source_go_on_and_those_of_a_finite_one_are_shuffled_passes(
    tmp_path: Path,
) -> None:
    scenes = Scenes(size=16)
    batch = source_batch(scenes, range(6, 9), seed=0)
    assert scenes.length is None
    assert [sample["caption"] for sample in batch] == [scenes[index]["caption"] for index in (6, 7, 8)]
    for index in range(4):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{index}.png")
        (tmp_path / f"{index}.txt").write_text(f"image {index}")
    folder = ImageFolder(tmp_path, 16)
    parts = [source_batch(folder, range(first, first + 2), seed=0) for first in range(0, 8, 2)]
    captions = [sample["caption"] for part in parts for sample in part]
    assert folder.length == 4
    assert sorted(captions[:4]) == sorted(captions[4:]) == [f"image {index}" for index in range(4)]
    assert stack_images(batch).shape == (3, 3, 16, 16)
