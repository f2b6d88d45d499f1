"""FID: its resizes, its network's shape, MJHQ-30K's folder, statistics, and known distances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fid_runs import patch, run_fid, write_mjhq
from folders import write_tiny_model
from PIL import Image

from smalti.errors import SmaltiError
from smalti.evaluation.frechet import Gaussian, frechet_distance
from smalti.evaluation.request import Request
from smalti.evaluation.run import evaluate
from smalti.evaluation.suites.fid import features
from smalti.evaluation.suites.fid.inception import Inception, load_inception
from smalti.evaluation.suites.fid.suite import Fid


@pytest.fixture
def mjhq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three categories of four noisy images, and MJHQ-30K's file of prompts."""
    patch(monkeypatch)
    return write_mjhq(tmp_path / "mjhq")


def test_distances_of_known_gaussians_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(64, 64, generator=generator, dtype=torch.float64))[0]
    one, two = (torch.rand(64, generator=generator, dtype=torch.float64) * 4 for _ in range(2))
    one[:20] = 0  # no full rank
    mean = torch.randn(64, generator=generator, dtype=torch.float64)
    first = Gaussian(torch.zeros(64, dtype=torch.float64), turn @ one.diag() @ turn.T)
    second = Gaussian(mean, turn @ two.diag() @ turn.T)
    expected = float(mean.square().sum() + (one.sqrt() - two.sqrt()).square().sum())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(second, second) == pytest.approx(0, abs=1e-9)


def test_resizes_differ_where_packages_do() -> None:
    ramp = Image.fromarray(np.tile(np.arange(598, dtype=np.float32) * 255 / 597, (598, 1)).astype(np.uint8))
    image = ramp.convert("RGB")
    found = {name: resize(image) for name, resize in features.RESIZES.items()}
    assert all(one.shape == (3, 299, 299) for one in found.values())
    pixels = torch.from_numpy(np.array(image)).float()[..., 0]
    # TensorFlow starts at the corner, so half the size takes every second pixel; the others take means.
    assert torch.equal(found["tensorflow"][0], pixels[::2, ::2])
    assert torch.allclose(found["bilinear"][0], (pixels[::2, ::2] + pixels[1::2, 1::2]) / 2)
    assert (found["clean"][0] - found["bilinear"][0])[5:-5, 5:-5].abs().max() < 1
    noise = Image.effect_noise((1495, 299), 200).convert("RGB")
    left = {name: float(resize(noise).std()) for name, resize in features.RESIZES.items()}
    assert 1.8 * left["clean"] < left["bilinear"]  # only clean-fid's resize removes what is too fine


def test_inception_has_the_published_shapes(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = Inception()
    assert sum(one.numel() for one in network.parameters()) == 21_785_568
    names = network.state_dict()
    assert names["Mixed_7c.branch3x3dbl_3b.conv.weight"].shape == (384, 384, 3, 1)
    assert names["Mixed_6b.branch7x7dbl_5.bn.running_var"].shape == (192,)
    (tmp_path / "x.safetensors").write_bytes(b"no")
    for path in (tmp_path / "x.safetensors", tmp_path / "none"):
        with pytest.raises(SmaltiError, match="weights must be a safetensors file of FID's Inception"):
            load_inception(path)
    assert network.eval()(torch.zeros(1, 3, 299, 299, device="meta")).shape == (1, 2048)


def test_mjhqs_prompts_are_drawn_into_its_layout(mjhq: Path, tmp_path: Path) -> None:
    model = str(write_tiny_model(tmp_path / "tiny"))
    found = run_fid(str(tmp_path / "drawn"), str(mjhq), model)
    names = {str(path.relative_to(tmp_path / "drawn")) for path in (tmp_path / "drawn").rglob("*.png")}
    assert names == {
        "animals/a0.png",
        "animals/a2.png",
        "food/f0.png",
        "food/f2.png",
        "people/p0.png",
        "people/p2.png",
    }
    assert found["fid"] > 0 and found["images"] == 6 and found["reference_images"] == 12 and found["subset"]
    assert found["intervals"]["fid"][0] < found["fid"] < found["intervals"]["fid"][1]
    assert found["sizes"] == [[64, 64]] and list(found["categories"]) == ["animals", "food", "people"]
    assert found["scorer"]["resize"] == "clean" and found["bootstrap"]["samples"] == 4
    # The folder alone gives the same; an interval resamples images in another order.
    apart = evaluate(Fid(reference=str(mjhq)), Request(folder=tmp_path / "drawn")).scores
    assert apart["fid"] == found["fid"] and apart["categories"] == found["categories"]


def test_real_images_are_at_distance_zero_and_statistics_suffice(mjhq: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "real.safetensors")
    whole = evaluate(Fid(reference=str(mjhq), statistics=file), Request(folder=mjhq)).scores
    assert whole["fid"] == 0 and whole["categories"]["food"] == {
        "distance": 0, "images": 4, "reference_images": 4,
    }  # fmt: skip
    brief = evaluate(Fid(reference=file, resamples=0), Request(folder=mjhq)).scores
    assert brief["fid"] == 0 and brief["reference_images"] == 12 and "categories" not in brief
    table = Fid().table(whole)
    assert "| fid | 0.0000 |" in table and "| size of images | 16×16 |" in table
    with pytest.raises(SmaltiError, match="statistics with another resize: 'clean', not 'bilinear'"):
        evaluate(Fid(reference=file, resize="bilinear"), Request(folder=mjhq))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    for options, message in (
        ({}, "reference must be a folder of real images or a file of statistics"),
        ({"reference": "x"}, "weights must be a safetensors file of FID's Inception"),
    ):
        with pytest.raises(SmaltiError, match=message):
            Fid(**options).describe()
    with pytest.raises(SmaltiError, match="resize is Inception's: leave it out"):
        Fid(resize="clean", features="clip")
    with pytest.raises(SmaltiError, match="resize must be 'clean' or 'bilinear' or"):
        Fid(resize="nearest")
    with pytest.raises(SmaltiError, match="--shuffled cannot be used"):
        evaluate(Fid(), Request(folder=tmp_path, shuffled=True))
