"""The classifier whose features distances are taken on: what it is trained to say, and that its distance measures."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from smalti.errors import SmaltiError
from smalti.evaluation.frechet import fit, frechet_distance
from smalti.evaluation.suites.scenes.features import (
    DIMENSION,
    SIDE,
    WEIGHTS,
    SceneClassifier,
    features,
    load_classifier,
    save_classifier,
    targets,
)
from smalti.worlds.scenes.palette import BACKGROUNDS, COLORS
from smalti.worlds.scenes.scene import Scene, SceneObject
from smalti.worlds.scenes.shapes import SHAPES
from smalti.worlds.scenes.world import Scenes

TRAINING = Path(__file__).parents[3] / "tools" / "train_classifier.py"


@pytest.fixture(scope="module")
def classifier() -> SceneClassifier:
    return load_classifier()


def unseen(first: int, count: int, size: int = SIDE, lattice: int | None = 8) -> torch.Tensor:
    """(N, 3, size, size) uint8 of scenes that the classifier has not seen."""
    scenes = Scenes(seed=5, size=size, split="test", lattice=lattice)
    return torch.stack([scenes[index]["image"] for index in range(first, first + count)])


def test_targets_say_what_a_scene_shows() -> None:
    objects = (
        SceneObject("star", "red", 0.3, 0.3, 0.3),
        SceneObject("heart", "blue", 0.7, 0.3, 0.3),
        SceneObject("star", "red", 0.3, 0.7, 0.3),
    )
    found = targets(Scene(objects, "mint", False, "", "mixed", {}))
    shapes, colors = list(SHAPES), list(COLORS)
    assert {shapes[index] for index in found["shapes"].nonzero()} == {"star", "heart"}
    assert {colors[index] for index in found["colors"].nonzero()} == {"red", "blue"}
    pairs = {divmod(int(index), len(colors)) for index in found["pairs"].nonzero()}
    assert {(shapes[shape], colors[color]) for shape, color in pairs} == {("star", "red"), ("heart", "blue")}
    assert int(found["count"]) == 2 and list(BACKGROUNDS)[int(found["background"])] == "mint"


def test_weights_fit_in_the_package() -> None:
    assert WEIGHTS.stat().st_size <= 1_000_000


@pytest.mark.parametrize("lattice", [None, 8])
def test_classifier_knows_unseen_scenes(classifier: SceneClassifier, lattice: int | None) -> None:
    scenes = Scenes(seed=5, size=SIDE, split="test", lattice=lattice)
    wanted = [targets(scenes.scene(index)) for index in range(100)]
    with torch.inference_mode():
        said = classifier(unseen(0, 100, lattice=lattice))
    wholly_right = {}
    for name, logits in said.items():
        truth = torch.stack([one[name] for one in wanted])
        hits = ((logits > 0) == truth.bool()).all(dim=1) if truth.ndim == 2 else logits.argmax(dim=1) == truth
        wholly_right[name] = float(hits.float().mean())
    assert wholly_right.pop("pairs") >= 0.6
    assert min(wholly_right.values()) >= 0.95, wholly_right


def noisy(images: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 20 * noise).clamp(0, 255).to(torch.uint8)


def recolored(images: torch.Tensor) -> torch.Tensor:
    return images.roll(1, dims=1)


def paled(images: torch.Tensor) -> torch.Tensor:
    return (images.float() * 0.5 + 100).to(torch.uint8)


def blurred(images: torch.Tensor) -> torch.Tensor:
    small = torch.nn.functional.avg_pool2d(images.float(), 8)
    return torch.nn.functional.interpolate(small, scale_factor=8, mode="bilinear").to(torch.uint8)


def crowded(images: torch.Tensor) -> torch.Tensor:
    """Two images in one, each pixel the darker of the two: too many things in one."""
    return torch.minimum(images, images.roll(1, dims=0))


@pytest.fixture(scope="module")
def ours() -> torch.Tensor:
    return unseen(0, 120)


@pytest.fixture(scope="module")
def distance(classifier: SceneClassifier) -> Callable[[torch.Tensor], float]:
    """The distance of images from 240 unseen scenes."""
    reference = fit(features(classifier, unseen(120, 240).split(40)))
    return lambda images: frechet_distance(fit(features(classifier, images.split(40))), reference)


@pytest.fixture(scope="module")
def floor(distance: Callable[[torch.Tensor], float], ours: torch.Tensor) -> float:
    return distance(ours)


@pytest.mark.parametrize("spoil", [noisy, recolored, paled, blurred, crowded])
def test_distance_sees_what_is_wrong(
    distance: Callable[[torch.Tensor], float],
    ours: torch.Tensor,
    floor: float,
    spoil: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    assert distance(spoil(ours)) > 2 * floor


def test_distance_sees_what_is_missing(
    distance: Callable[[torch.Tensor], float], ours: torch.Tensor, floor: float
) -> None:
    """As many images, none wrong, but of few kinds."""
    assert distance(ours[:10].repeat(12, 1, 1, 1)) > 2 * floor


def test_distance_overlooks_what_nobody_sees(
    distance: Callable[[torch.Tensor], float], ours: torch.Tensor, floor: float
) -> None:
    noise = torch.randint(-2, 3, ours.shape, generator=torch.Generator().manual_seed(0))
    assert distance((ours + noise).clamp(0, 255).to(torch.uint8)) < 1.1 * floor


def test_features_of_a_picture_are_its_own(classifier: SceneClassifier) -> None:
    """Alone or in a batch, and nearly the same at another resolution."""
    images = unseen(0, 8)
    together = features(classifier, [images])
    assert together.shape == (8, DIMENSION) and together.dtype == torch.float32
    assert torch.allclose(features(classifier, images.split(1)), together, atol=1e-4)
    assert torch.allclose(
        features(classifier, [unseen(0, 8, size=256)]), together, atol=0.05 * float(together.max())
    )


def test_features_need_images(classifier: SceneClassifier) -> None:
    with pytest.raises(SmaltiError, match="no images"):
        features(classifier, [])
    with pytest.raises(SmaltiError, match=r"uint8 \(B, 3, H, W\), not torch.float32"):
        features(classifier, [torch.zeros(1, 3, 16, 16)])
    with pytest.raises(SmaltiError, match=r"\(1, 16, 16, 3\)"):
        features(classifier, [torch.from_numpy(np.zeros((1, 16, 16, 3), dtype=np.uint8))])


def test_weights_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SmaltiError, match="none.safetensors does not hold the classifier's weights"):
        load_classifier(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(SmaltiError, match="broken.safetensors"):
        load_classifier(tmp_path / "broken.safetensors")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(SmaltiError, match="other.safetensors") as caught:
        load_classifier(tmp_path / "other.safetensors")
    assert "\n" not in str(caught.value)


def test_training_is_reproducible_and_kept(tmp_path: Path) -> None:
    train = runpy.run_path(str(TRAINING))["train"]
    one, same, other = (train(2, seed, batch_size=4) for seed in (0, 0, 1))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name]), name
    assert not torch.equal(one.to_features.weight, other.to_features.weight)
    save_classifier(one, tmp_path / "classifier.safetensors")
    kept = load_classifier(tmp_path / "classifier.safetensors").state_dict()
    for name, weight in one.state_dict().items():
        assert torch.allclose(kept[name].float(), weight.float(), rtol=1e-3, atol=1e-6), name
