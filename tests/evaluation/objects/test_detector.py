"""Finding and naming things: single things from a segmentation, crops, and what is unknown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from objects_archive import NOUNS, untrained_scorer
from safetensors.torch import save_file

from smalti.errors import SmaltiError
from smalti.evaluation.suites.objects.crops import MARGIN, cut
from smalti.evaluation.suites.objects.detector import detect, find_things, working_pixels
from smalti.evaluation.suites.objects.edges import CROP
from smalti.evaluation.suites.objects.grouping import join_pieces
from smalti.evaluation.suites.objects.instances import find_instances
from smalti.evaluation.suites.objects.networks import Found
from smalti.evaluation.suites.objects.scorer import load_scorer, save_scorer

CELLS = 64


def segmentation(*boxes: tuple[int, int, int, int], noise: float = 0.0) -> Found:
    """Return what a perfect segmenter says of rectangles (left, top, right, bottom) in cells of 4×4 pixels."""
    cover, offsets = torch.full((1, CELLS, CELLS), -6.0), torch.zeros(2, CELLS, CELLS)
    y, x = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
    for left, top, right, bottom in boxes:
        part = (slice(top, bottom), slice(left, right))
        cover[0][part] = 6
        offsets[0][part] = ((left + right - 1) / 2 - x)[part]
        offsets[1][part] = ((top + bottom - 1) / 2 - y)[part]
    offsets += noise * torch.randn(offsets.shape, generator=torch.Generator().manual_seed(0))
    return Found(cover.repeat_interleave(2, 1).repeat_interleave(2, 2), offsets)


def test_things_that_touch_are_apart() -> None:
    instances = find_instances(*segmentation((5, 5, 25, 40), (25, 8, 44, 36), (50, 50, 60, 60), noise=1.0))
    assert instances.count == 3
    owners = instances.owners
    assert owners[0, 0] == -1 and len({owners[20, 10], owners[20, 30], owners[55, 55]}) == 3
    assert (owners[6:39, 6:24] == owners[20, 10]).mean() > 0.99


def test_a_thing_in_two_pieces_is_one() -> None:
    found = segmentation((10, 10, 50, 40))
    found.cover[0, :, 56:66] = -6
    assert find_instances(*found).count == 1


def test_pieces_are_joined_if_they_are_a_thing_together() -> None:
    owners = np.full((8, 12), -1)
    owners[2:6, 1:5], owners[2:6, 5:8], owners[2:6, 9:11] = 0, 1, 2

    def name(pieces: Sequence[np.ndarray], whole: float) -> torch.Tensor:
        """Return how certain one noun is: of the union of the first two pieces, `whole`; of any other, a half."""
        sure = torch.tensor([whole if piece.sum() == 28 else 0.5 for piece in pieces])
        return torch.stack([sure, 1 - sure], dim=1)

    joined, shares = join_pieces(owners, lambda pieces: name(pieces, 0.6))
    assert joined[3].tolist() == [-1, 1, 1, 1, 1, 1, 1, 1, -1, 0, 0, -1]
    assert shares[:, 0].tolist() == pytest.approx([0.5, 0.6])
    apart, shares = join_pieces(owners, lambda pieces: name(pieces, 0.4))
    assert (apart == owners).all() and len(shares) == 3


def test_specks_and_empty_images_have_no_things() -> None:
    assert find_instances(*segmentation()).count == 0
    assert find_instances(*segmentation((10, 10, 12, 13))).count == 0
    assert find_instances(*segmentation((10, 10, 12, 13), (30, 30, 50, 50))).count == 1


def test_crops_are_square_and_on_grey() -> None:
    image = torch.zeros(3, 128, 192)
    image[0, 40:80, 100:120] = 1
    mask = image[0].clone()
    crop = cut(image, mask[None], np.array([[100.0, 40.0, 120.0, 80.0]]))
    assert crop.shape == (1, 4, CROP, CROP)
    assert torch.allclose(crop[0, :3, 0, 0], torch.full((3,), 0.5))
    middle = crop[0, :, CROP // 2, CROP // 2]
    assert middle.tolist() == pytest.approx([1, 0, 0, 1], abs=0.01)
    # The thing is as high as the crop less its margin, and half as wide.
    assert float(crop[0, 3].mean()) == pytest.approx(0.5 / MARGIN**2, rel=0.05)
    assert cut(image, mask[None][:0], np.empty((0, 4))).shape == (0, 4, CROP, CROP)


def test_a_scorer_is_read_as_it_was_written(tmp_path: Path) -> None:
    scorer = untrained_scorer()
    save_scorer(scorer, tmp_path / "s.safetensors")
    read = load_scorer(tmp_path / "s.safetensors")
    assert read.knowledge == scorer.knowledge and read.knowledge.vocabulary.nouns.keys() == set(NOUNS)
    crops = torch.rand(3, 4, CROP, CROP)
    with torch.inference_mode():
        assert torch.allclose(read.classifier(crops), scorer.classifier(crops), atol=0.02)
        found = read.segmenter(torch.rand(2, 3, 64, 96))
    assert found.cover.shape == (2, 1, 32, 48) and found.offsets.shape == (2, 2, 16, 24)


def test_files_that_hold_no_scorer_are_named(tmp_path: Path) -> None:
    for write in (
        lambda path: None,
        lambda path: path.write_bytes(b"x" * 90),
        lambda path: save_file({}, path),
    ):
        path = tmp_path / "wrong.safetensors"
        write(path)
        with pytest.raises(SmaltiError, match="does not hold a scorer of objects") as caught:
            load_scorer(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SmaltiError, match="is not a regular file"):
        load_scorer(tmp_path / "pipe")


def test_things_have_boxes_colours_and_claimed_nouns(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((256, 256, 3), 250, np.uint8)
    image[40:120, 20:100] = 220, 30, 40
    image[100:200, 140:220] = 30, 90, 220
    found = segmentation((5, 10, 25, 30), (35, 25, 55, 50))
    scorer = untrained_scorer(("ball",))
    monkeypatch.setattr(
        scorer.segmenter, "forward", lambda images: Found(found.cover[None], found.offsets[None])
    )
    shares = torch.zeros(2, len(NOUNS) + 1)
    shares[0, NOUNS.index("ball")] = shares[1, NOUNS.index("door")] = 0.995
    monkeypatch.setattr(scorer.classifier, "forward", lambda crops: shares.clone())
    first, second = find_things(image, scorer)
    assert (list(first.classes), first.color, first.guess) == (["thing", "ball"], "red", "ball")
    assert (second.classes, second.color, second.guess) == ({}, "blue", "door")
    assert first.box == pytest.approx((20 / 256, 40 / 256, 100 / 256, 120 / 256), abs=0.02)
    kind, noun = detect(image, scorer)
    assert (kind.name, noun.name, noun.color) == ("thing", "ball", "red") and noun.score > 0.99
    monkeypatch.setattr(scorer.classifier, "forward", lambda crops: shares * 0.2)
    assert detect(image, scorer) == []


@pytest.mark.parametrize("size", [(256, 256), (512, 384), (96, 64)])
def test_images_of_any_size_are_taken(size: tuple[int, int]) -> None:
    pixels = working_pixels(np.zeros((*size, 3), np.uint8))
    assert min(pixels.shape[1:]) == 256 and all(side % 32 == 0 for side in pixels.shape[1:])
    find_things(np.zeros((*size, 3), np.uint8), untrained_scorer())


def test_a_class_has_the_probabilities_of_all_its_nouns() -> None:
    knowledge = untrained_scorer().knowledge
    shares = torch.tensor([0.2, 0.2, 0.35, 0.0, 0.0, 0.0, 0.25])
    assert knowledge.classes_of(shares) == pytest.approx({"thing": 0.75, NOUNS[2]: 0.35})


def test_other_arrays_are_refused() -> None:
    with pytest.raises(SmaltiError, match="image must be uint8"):
        detect(np.zeros((8, 8), np.uint8), untrained_scorer())
