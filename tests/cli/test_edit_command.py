"""`smalti edit`, `inpaint`, `outpaint` and `vary`: what they write, and what they refuse in one line."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import write_tiny_model
from PIL import Image
from typer.testing import CliRunner

import smalti
from smalti.cli import edit
from smalti.cli.app import app
from smalti.cli.main import main
from smalti.editing.embedded import TEXT, find_embedded
from smalti.editing.picture import open_picture
from smalti.generation.settings import GenerationSettings

NEW, OLD = "a green circle", "a red circle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pipe(folder):
    return smalti.load(folder)


@pytest.fixture
def run(tmp_path, monkeypatch, capfd, folder):
    """Run a command line in an empty folder, with the tiny model: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(command: str, *arguments: object) -> tuple[int, str, str]:
        code = main([command, *map(str, arguments), "--model", str(folder)])
        return code, *capfd.readouterr()

    return call


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_an_edit(run, pipe, tmp_path):
    assert run("generate", OLD, "-o", "a.png", "--seed", 1, "--steps", 4)[0] == 0
    line = ["a.png", NEW, "-o", "b.png", "--show-mask", "map.png", "--seed", 3, "--steps", 8]
    code, out, err = run("edit", *line)
    assert (code, out, err) == (0, "", "") and names(tmp_path) == ["a.png", "b.png", "map.png"]
    # The file says what it shows, and brings its tokens along.
    drawn = pipe(OLD, seed=1, num_inference_steps=4)
    expected = pipe.edit(drawn, NEW, source_prompt=OLD, seed=3, num_inference_steps=8)
    with Image.open("b.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected.image))
        assert image.text["prompt"] == NEW and image.text["source prompt"] == OLD
        assert image.text["seed"] == "3" and image.text["Software"] == f"Smalti {smalti.__version__}"
        assert json.loads(image.text["settings"]) == expected.settings.to_dict()
    embedded = find_embedded(open_picture("b.png"), pipe.image_tokenizer)
    assert torch.equal(embedded.tokens, expected.tokens[0])
    with Image.open("map.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected.map()))
    report = json.loads(run("edit", *line, "-n", 2, "--json")[1])
    assert report["images"] == ["b-0.png", "b-1.png"] and report["map"] == "map.png"
    assert (report["prompt"], report["source_prompt"], report["seeds"]) == (NEW, OLD, [3, 4])
    assert (report["tokens"], report["tokens_chosen"]) == (64, int(expected.region.sum()))
    assert report["choosing_passes"] == expected.passes > 0 and report["model"] == "tiny"
    assert list(report["seconds"]) == ["load", "encode", "choose", "prompt", "denoise", "decode", "total"]
    assert (tmp_path / "b-0.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_one_path_for_everything(run, pipe, tmp_path):
    """Each command is an edit with another choice of tokens."""
    assert run("generate", OLD, "-o", "a.png", "--seed", 1, "--steps", 4)[0] == 0
    drawn = pipe(OLD, seed=1, num_inference_steps=4)
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 8:30] = True
    Image.fromarray(mask).save("mask.png")
    for line, how in (
        (["inpaint", "a.png", NEW, "--mask", "mask.png"], {"mask": mask}),
        (["edit", "a.png", NEW, "--mask", "mask.png"], {"mask": mask}),
        (["outpaint", "a.png", NEW, "--left", 16, "--bottom", 30], {"grow": (16, 0, 0, 30)}),
        (["vary", "a.png", NEW, "--strength", 0.3], {"strength": 0.3}),
        (["vary", "a.png"], {"strength": 0.5, "prompt": OLD}),
        (["edit", "a.png", NEW, "--share", 0.2], {"share": 0.2}),
        (
            ["edit", "a.png", NEW, "--source-prompt", "", "--share", 0.1],
            {"source_prompt": "", "share": 0.1},
        ),
        (
            ["inpaint", "a.png", NEW, "--mask", "mask.png", "--no-keep-pixels"],
            {"mask": mask, "keep_pixels": False},
        ),
    ):
        assert run(*line, "-o", "b.png", "--seed", 2, "--steps", 3) == (0, "", "")
        expected = pipe.edit(drawn, **{"prompt": NEW, **how}, seed=2, num_inference_steps=3)
        with Image.open("b.png") as image:
            assert np.array_equal(np.asarray(image), np.asarray(expected.image)), line


@pytest.mark.slow
def test_ten_edits_of_files_in_a_row(run, pipe, tmp_path):
    """Tokens that are never selected are those of the first image, though only PNGs go from edit to edit."""
    assert run("generate", OLD, "-o", "0.png", "--seed", 1, "--steps", 4)[0] == 0
    first = find_embedded(open_picture("0.png"), pipe.image_tokenizer).tokens
    untouched = torch.ones(8, 8, dtype=torch.bool)
    for number in range(10):
        mask = np.zeros((64, 64), dtype=bool)
        mask[8 * (number % 4) + 3, 8 * (number % 5)] = True
        untouched[number % 4, number % 5] = False
        Image.fromarray(mask).save("mask.png")
        line = [f"{number}.png", f"{number} stars", "--mask", "mask.png", "-o", f"{number + 1}.png"]
        assert run("inpaint", *line, "--steps", 1)[0] == 0
    last = find_embedded(open_picture("10.png"), pipe.image_tokenizer).tokens
    assert torch.equal(last[untouched], first[untouched]) and not torch.equal(last, first)
    # An image that something else changed is encoded again: its embedded tokens are no longer valid.
    with Image.open("10.png") as image:
        changed, text = image.copy(), image.text[TEXT]
    changed.putpixel((63, 63), (1, 2, 3))
    from smalti.common.images import save_image

    save_image(changed, "changed.png", {TEXT: text, "prompt": "ten stars"})
    report = json.loads(run("edit", "changed.png", NEW, "-o", "b.png", "--json", "--steps", 2)[1])
    assert report["source_prompt"] is None


EDIT = ["edit", "a.png", NEW, "-o", "b.png"]
BAD_LINES = {
    "image: none.png does not exist": ["edit", "none.png", NEW, "-o", "b.png"],
    "image: text.png is not a readable image": ["edit", "text.png", NEW, "-o", "b.png"],
    "prompt and source_prompt are the same": ["edit", "a.png", OLD, "-o", "b.png", "--source-prompt", OLD],
    "mask must be as large as the image, 64×64 pixels, not 32×32": [*EDIT, "--mask", "small.png"],
    "mask must not be empty": [*EDIT, "--mask", "black.png"],
    "mask must not cover everything": ["inpaint", "a.png", NEW, "--mask", "white.png", "-o", "b.png"],
    "mask: none.png does not exist": [*EDIT, "--mask", "none.png"],
    "Missing option '--mask'": ["inpaint", "a.png", NEW, "-o", "b.png"],
    "--source-prompt is for the automatic selection": [*EDIT, "--strength", 0.5, "--source-prompt", OLD],
    "strength must be a finite number above 0": [*EDIT, "--strength", 0],
    "share must be a finite number above 0": [*EDIT, "--share", 2],
    "threshold must be a finite number": [*EDIT, "--threshold", -1],
    "--strength must be a finite number above 0": ["vary", "a.png", NEW, "-o", "b.png", "--strength", 7],
    "name an edge to grow": ["outpaint", "a.png", NEW, "-o", "b.png"],
    "--left must be a whole number of at least 0, not -3": [
        "outpaint",
        "a.png",
        NEW,
        "-o",
        "b.png",
        "--left",
        -3,
    ],
    "a.png does not say what it shows": ["vary", "a.png", "-o", "b.png"],
    "nothing to write": ["edit", "a.png", NEW],
    "-o must name a .png or .jpg or .jpeg or .webp file, not 'b.gif'": ["edit", "a.png", NEW, "-o", "b.gif"],
    "--show-mask must name a .png file": [*EDIT, "--show-mask", "map.gif"],
    "prompt must not be empty": ["edit", "a.png", " ", "-o", "b.png"],
    "--steps must be a whole number of at least 1, not 0": [*EDIT, "--steps", 0],
    "--height must be a multiple of 16 pixels, not 60": [*EDIT, "--height", 60, "--strength", 0.5],
    "-n must be a whole number": [*EDIT, "-n", 0],
    "--seed must be a whole number": [*EDIT, "--seed", -1],
    "Missing argument 'PROMPT'": ["edit", "a.png"],
}


@pytest.mark.parametrize("message", BAD_LINES)
def test_bad_lines_are_one_line_and_change_nothing(run, tmp_path, message):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "b.png").write_bytes(b"old")
    for name, side, value in (("small", 32, 255), ("black", 64, 0), ("white", 64, 255)):
        Image.new("L", (side, side), value).save(tmp_path / f"{name}.png")
    before = names(tmp_path)
    code, out, err = run(*BAD_LINES[message])
    assert (code, out) == (2, "")
    assert err.startswith("smalti: ") and err.count("\n") == 1 and message in err
    assert names(tmp_path) == before and (tmp_path / "b.png").read_bytes() == b"old"


@pytest.mark.parametrize("command", [edit.edit, edit.inpaint, edit.outpaint, edit.vary])
def test_help_and_every_setting(command):
    result = CliRunner().invoke(app, [command.__name__, "--help"])
    assert result.exit_code == 0 and "Usage" in result.output
    wanted = {*GenerationSettings().to_dict(), "preset", "negative_prompt", "model", "hub_revision"}
    assert wanted <= set(inspect.signature(command).parameters)
