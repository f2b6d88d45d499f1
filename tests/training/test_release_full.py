"""configs/release-full.yaml on a folder of the reference model's form, cut to what a test can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from release_shape import CONFIG, CUT, CUT_VQ, write_release

from smalti.cli.main import main
from smalti.training.config import DenoiserRunConfig
from smalti.training.reading import load_config

PATH = Path(__file__).parents[2] / "configs" / "release-full.yaml"


def test_the_shape_is_the_reference_models() -> None:
    config = load_config(DenoiserRunConfig, PATH)
    assert all(CONFIG[name] == value for name, value in config.model.items())
    assert config.loop.images == 256 and config.distribution.strategy == "fsdp" and config.cache is None


@pytest.mark.slow
def test_a_dry_run_goes_up_to_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_release(Path("NL-Diffusion-Image"), config=CUT, vq=CUT_VQ, vision_tower=(100, 100))
    Path("images").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 80), (80 * number, 0, 0)).save(f"images/{number}.png")
        Path(f"images/{number}.txt").write_text(f"image number {number}")
    tokenize = ["tokenize", "images", "size=64", "-o", "tokens", "--tokenizer", "NL-Diffusion-Image"]
    assert main(tokenize) == 0
    keys = load_config(DenoiserRunConfig, PATH).model
    small = [f"model.{name}={value}" for name, value in CUT.items() if name in keys]
    cpu = ["loop.device=cpu", "loop.processes=2"]
    capsys.readouterr()
    assert main(["train", str(PATH), "--dry-run", *small, *cpu]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ready: 10,000 steps of 256 images from the start, 2 × cpu; 3 images are token")
    assert not Path("runs/release-full").exists()
