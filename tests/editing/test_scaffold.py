"""Scaffolds: templates whose tokens new images keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from folders import write_tiny_model
from PIL import Image

import smalti
from smalti.cli.main import main
from smalti.editing.scaffold import read_scaffold
from smalti.errors import SmaltiError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def template():
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def mask():
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:33] = 255
    return mask


def test_all_images_keep_the_template_and_fill_the_rest(folder, template, mask):
    pipe = smalti.load(folder)
    scaffold = read_scaffold(pipe.components, template, mask, (64, 64))
    rows = scaffold.tokens.shape[1]
    # The mask reaches one pixel into a row of tokens, which is open.
    assert scaffold.editable[0].all(dim=1).tolist() == [row <= rows // 2 for row in range(rows)]
    settings = pipe.settings.replaced(height=64, width=64, num_inference_steps=3, revision="threshold:0.01")
    out = pipe(["two dogs", "one cat"], settings=settings, scaffold=scaffold, seed=[0, 1])
    kept = pipe.components.encode(torch.from_numpy(template).permute(2, 0, 1)[None])[0]
    for tokens in out.tokens:
        assert torch.equal(tokens[rows // 2 + 1 :], kept[rows // 2 + 1 :])
        assert int(tokens.max()) < pipe.denoiser.config.codebook_size
    assert not torch.equal(out.tokens[0], out.tokens[1])
    alone = pipe("one cat", settings=settings, scaffold=scaffold, seed=1)
    assert torch.equal(alone.tokens[0], out.tokens[1])


def test_a_scaffold_of_another_size_is_refused(folder, template, mask):
    pipe = smalti.load(folder)
    scaffold = read_scaffold(pipe.components, template, mask, (64, 64))
    with pytest.raises(SmaltiError, match="scaffold must be"):
        pipe("two dogs", scaffold=42)
    with pytest.raises(SmaltiError, match="tokens must be"):
        pipe("two dogs", settings=pipe.settings.replaced(height=128, width=64), scaffold=scaffold)


def test_the_command(folder, template, mask, tmp_path, capfd):
    Image.fromarray(template).save(tmp_path / "template.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    line = ["generate", "two dogs", "-o", tmp_path / "x.png", "--model", folder, "--steps", 2, "--height", 64]
    line = [*map(str, line), "--width", "64", "--scaffold", str(tmp_path / "template.png")]
    assert main(line) == 2
    assert "--scaffold-mask must be given together" in capfd.readouterr().err
    for out, option in (("template.png", "--scaffold"), ("mask.png", "--scaffold-mask")):
        before = (tmp_path / out).read_bytes()
        own = [*line, "--scaffold-mask", str(tmp_path / "mask.png"), "-o", str(tmp_path / out)]
        assert main(own) == 2
        assert f"-o must name another file than {option}," in capfd.readouterr().err
        assert (tmp_path / out).read_bytes() == before
    Image.new("L", (64, 64)).save(tmp_path / "dark.png")
    for name, more, message in (
        ("dark.png", [], "--scaffold-mask must not be empty"),
        ("none.png", [], "--scaffold-mask: "),
        ("mask.png", ["--scaffold", str(tmp_path / "none.png")], "--scaffold: "),
        ("mask.png", ["--height", "63"], "--height must be a multiple of"),
    ):
        assert main([*line, "--scaffold-mask", str(tmp_path / name), *more]) == 2
        assert message in capfd.readouterr().err
    tokens = tmp_path / "x.npy"
    assert main([*line, "--scaffold-mask", str(tmp_path / "mask.png"), "--save-tokens", str(tokens)]) == 0
    components = smalti.load(folder).components
    kept = components.encode(torch.from_numpy(template).permute(2, 0, 1)[None])[0].numpy()
    assert np.array_equal(np.load(tokens)[-1], kept[-1])
