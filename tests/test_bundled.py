"""The models in the package: their promises, and the commands of the README from end to end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import smalti
from smalti.evaluation.suite import find_suite
from smalti.evaluation.suites.scenes.prompts import scene_prompts
from smalti.evaluation.suites.scenes.score import score_images
from smalti.pipeline import Pipeline
from smalti.storage.loading import BUNDLED_MODELS, DEFAULT_MODEL, find_model, load_outline
from smalti.vq.fidelity import measure_fidelity
from smalti.worlds.scenes.world import Scenes

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return smalti.load("scenes")


def test_fit_in_the_repository() -> None:
    files = [path for folder in BUNDLED_MODELS.values() for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 96_000_000
    assert {path.suffix for path in files} <= {".json", ".md", ".safetensors", ".txt"}


def test_is_what_the_documents_say(pipe: Pipeline) -> None:
    vq = pipe.image_tokenizer.config
    assert vq.codebook_size >= 4096
    assert pipe.denoiser.config.image_size == 256 and vq.downscale == 16


@pytest.mark.slow
def test_image_tokenizer_is_faithful_to_unseen_scenes(pipe: Pipeline) -> None:
    unseen = Scenes(seed=123, size=256, split="test")
    with torch.inference_mode():
        found = measure_fidelity(
            pipe.image_tokenizer, torch.stack([unseen[index]["image"] for index in range(16)])
        )
    assert found["psnr"] >= 27


@pytest.mark.slow
def test_draws_what_prompts_say(pipe: Pipeline) -> None:
    """The scenes score of 36 pictures; the README has that of more."""
    prompts = scene_prompts(per_tag=6, seed=3)
    pictures = [
        picture
        for first in range(0, len(prompts), 18)
        for picture in pipe([prompt["prompt"] for prompt in prompts[first : first + 18]], seed=first).images
    ]
    scores = score_images(prompts, ([picture] for picture in pictures))
    assert scores["single_object"] >= 0.5
    assert scores["counting"] >= 0.6
    assert scores["mean"] >= 0.8 and scores["position"] >= 0.7 and scores["color_attr"] >= 0.6


@pytest.mark.slow
def test_the_objects_model_draws_things_that_the_scorer_knows() -> None:
    """Twelve of its nouns alone, in eight steps, by the suite's scorer; the model card has the scores of more."""
    nouns = [
        "tiger",
        "pizza",
        "house",
        "owl",
        "panda",
        "crown",
        "tree",
        "pear",
        "penguin",
        "guitar",
        "banana",
        "dog",
    ]
    prompts = [
        {"tag": "single_object", "prompt": f"a photo of a {noun}", "include": [{"class": noun, "count": 1}]}
        for noun in nouns
    ]
    images = smalti.load("objects")(
        [prompt["prompt"] for prompt in prompts], seed=0, num_inference_steps=8
    ).images
    suite = find_suite("objects")
    rows = [suite.score(prompt, [image]) for prompt, image in zip(prompts, images, strict=True)]
    judged = [row.row.correct[0] for row in rows if not row.unclaimed]
    assert len(judged) >= 8
    assert sum(judged) >= 0.6 * len(judged)


def test_the_objects_model_says_which_words_it_never_saw() -> None:
    components = load_outline("objects")
    assert components.unknown_words(["two pandas left of a blue car"]) == []
    assert components.unknown_words(["a corgi on a skateboard"]) == ["corgi"]


@pytest.mark.slow
def test_same_seed_same_picture_alone_or_in_a_batch(pipe: Pipeline) -> None:
    alone = pipe("three blue stars", seed=7, num_inference_steps=4, output_type="tokens").tokens
    batch = pipe(
        ["a red circle", "three blue stars"], seed=[5, 7], num_inference_steps=4, output_type="tokens"
    ).tokens
    assert torch.equal(alone[0], batch[1])
    assert not torch.equal(batch[0], batch[1])


@pytest.mark.slow
def test_readme_commands(tmp_path: Path) -> None:
    """Every `smalti` line of the README's drawing section, as a user would type it."""
    section = (ROOT / "README.md").read_text().split("## Draw")[1].split("```python")[0]
    commands = [line for line in section.splitlines() if line.startswith("smalti ")]
    assert len(commands) >= 3
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
        for name in re.findall(r"\S+\.(?:png|gif)", command):
            with Image.open(tmp_path / name) as picture:
                assert picture.size == (256, 256)


@pytest.mark.slow
def test_readme_python(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (256, 256)


@pytest.mark.slow
def test_loading_leaves_the_compiler_alone() -> None:
    """Importing PyTorch's compiler would double the time to the first picture."""
    code = "import sys, smalti; smalti.load('scenes')('a ring', seed=0, num_inference_steps=2); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "torch._dynamo" not in done.stdout.split()


def test_a_bundled_model_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name wins over a folder that is called the same in the working folder."""
    (tmp_path / "scenes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_model("scenes") == BUNDLED_MODELS["scenes"]
    assert find_model("./scenes") == Path("scenes")
    assert find_model(None) == BUNDLED_MODELS[DEFAULT_MODEL]
