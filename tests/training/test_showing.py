"""Images of several shapes with masks, several captions and mirror images, in batches and over processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from equal_steps import five_steps, several
from PIL import Image
from ranks import run_ranks
from trainings import DENOISER, losses, make_task, write

from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.storage.folder import load_denoiser
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import DenoiserTask, train_denoiser
from smalti.training.engine import divide
from smalti.training.preparing import prepare
from smalti.training.reading import load_config

pytestmark = pytest.mark.slow

# Grids of 8×2, 4×4 and 2×8 tokens.
BUCKETS = ["data.buckets={step: 16}", "data.flips=true", "data.caption_lines=true", "data.together=2"]
SIZES = [
    (40, 40),
    (32, 100),
    (100, 32),
    (33, 32),
    (90, 30),
    (64, 64),
    (31, 90),
    (32, 32),
    (32, 32),
    (200, 50),
]


def write_images(folder: Path, sizes: list[tuple[int, int]], seed: int = 0) -> None:
    folder.mkdir()
    random = np.random.default_rng(seed)
    for number, size in enumerate(sizes):
        pixels = random.integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(
            f"a red circle\nimage {number}" if number % 2 else "a blue square"
        )
        if number % 3 == 0:
            Image.fromarray(pixels[..., 0] // 128 * 255).save(folder / f"{number}.mask.png")


@pytest.fixture
def images(workspace: Path) -> Path:
    write_images(workspace / "images", SIZES)
    data = {"kind": "folder", "path": "images", "size": 32}
    values = {**DENOISER, "output": "new", "data": data, "cache": {"path": "new-cache"}}
    write("denoiser.yaml", {**values, "validation": {"path": "images", "images": 3}})
    return workspace


def task_of(*overrides: str) -> DenoiserTask:
    return make_task(*BUCKETS, *overrides)


def test_an_image_is_the_same_in_every_batch(images: Path) -> None:
    task = task_of()
    shapes = task.shapes(range(20))
    assert shapes is not None and set(shapes) == {(8, 2), (4, 4), (2, 8)}
    assert task.parts.tokens.images.captions == 15
    single = [task.batch([number]) for number in range(20)]
    assert [tuple(one.targets.shape[1:]) for one in single] == list(shapes)
    for shape in set(shapes):
        numbers = [number for number in range(20) if shapes[number] == shape]
        whole = task.batch(numbers)
        for row, number in enumerate(numbers):
            one = single[number]
            assert torch.equal(whole.targets[row], one.targets[0])
            assert torch.equal(whole.tokens[row], one.tokens[0])
            length = int(one.prompt.lengths[0])
            assert torch.equal(whole.prompt.ids[row, :length], one.prompt.ids[0, :length])
            weights = torch.ones(shape) if one.weights is None else one.weights[0]
            assert torch.equal(
                weights, whole.weights[row] if whole.weights is not None else torch.ones(shape)
            )
    rows = [task.showing.batch([number]).places[0].row for number in range(20)]
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    by_row = {row: single[rows.index(row)] for row in range(10)}
    assert all((by_row[row].weights is None) == (row % 3 != 0) for row in range(10))


def test_mirror_images_and_captions_vary_from_pass_to_pass(images: Path) -> None:
    task = task_of("objective.prompt_drop_rate=0")
    row = 1  # two captions
    shards = task.parts.tokens.images
    own, other = (shards.tokens(row, flip=flip)[0].tolist() for flip in (False, True))
    found, texts = [], []
    for number in range(400):
        if task.showing.batch([number]).places[0].row == row:
            batch = task.batch([number])
            found.append(batch.targets[0].tolist() == own)
            assert batch.targets[0].tolist() in (own, other)
            texts.append(tuple(batch.prompt.ids[0].tolist()))
    assert len(found) == 40 and 8 < sum(found) < 32
    assert len(set(texts)) == 2 and 8 < texts.count(texts[0]) < 32
    again = task_of("objective.prompt_drop_rate=0", "output=again")
    assert torch.equal(again.batch([7]).targets, task.batch([7]).targets)


def test_the_batches_of_a_step_have_one_shape_and_every_image_once() -> None:
    shapes = list("abbacadbb")
    parts = list(divide(2, 9, 2, shapes))
    numbers = [number for part in parts for number in part.images]
    assert sorted(numbers) == list(range(18, 27)) and parts[-1].last and not any(p.last for p in parts[:-1])
    assert all(len({shapes[number - 18] for number in part.images}) == 1 for part in parts)
    assert [len(part.images) for part in parts] == [2, 1, 2, 2, 1, 1]


def test_steps_are_the_same_however_they_are_divided(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    common = [*BUCKETS, "objective.edit_loss_weight=0.5"]
    alone = five_steps("alone", common)
    table = capsys.readouterr().err
    assert "width×height  images" in table and "64×16" in table and "  all      10" in table
    cases: dict[str, tuple[list[str], tuple[str, ...]]] = {
        "ddp": ([*common, "loop.batch_size=2", "loop.accumulate=2"], ()),
        "fsdp": ([*common, "distribution.strategy=fsdp"], ()),
    }
    found = {"ones": five_steps("ones", [*common, "loop.batch_size=1", "loop.accumulate=4"])}
    found |= run_ranks(3, several, tmp_path, cases)[2]
    for name, one in found.items():
        torch.testing.assert_close(
            torch.tensor(one["losses"]), torch.tensor(alone["losses"]), rtol=0, atol=3e-6, msg=name
        )
        for key, value in alone["gradient"].items():
            torch.testing.assert_close(one["gradient"][key], value, rtol=1e-5, atol=1e-6, msg=f"{name} {key}")
        assert one["validation"] == pytest.approx(alone["validation"], abs=3e-6)


def test_a_second_set_has_its_share_and_its_weight(images: Path) -> None:
    write_images(images / "others", [(32, 32)] * 3, seed=1)
    second = "regularization={path: others, share: 0.25, weight: 0.5}"
    task = make_task(second)
    places = task.showing.batch(range(40)).places
    assert [place.part for place in places] == [0, 0, 0, 1] * 10
    batch = task.batch(range(4))
    assert batch.weights is not None
    masked = task.parts.tokens.regularization
    assert masked is not None and len(masked) == 3 and Path("new-cache/regularization/tokens.json").exists()
    _, mask = masked.tokens(places[3].row)
    expected = 0.5 * (torch.ones(4, 4) if mask is None else torch.from_numpy(mask / np.float32(255)))
    assert torch.allclose(batch.weights[3], expected)
    assert task.data != make_task("output=other").data
    train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", [second, "loop.steps=2"]))
    assert main(["train", "denoiser.yaml", "--dry-run", second]) == 0
    with pytest.raises(SmaltiError, match="regularization: nowhere is not a folder"):
        make_task("regularization={path: nowhere}")
    with pytest.raises(SmaltiError, match="regularization: needs data of kind folder, shards or tokens"):
        make_task("data={kind: scenes, size: 32}", "cache.samples=3", second)


def test_a_mask_decides_what_is_learned(images: Path) -> None:
    """A step of an image whose mask is black but for one token changes by that token alone."""
    shutil.rmtree("images")
    write_images(images / "images", [(32, 32)], seed=2)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:16, :8] = 255
    Image.fromarray(mask).save("images/0.mask.png")
    task = make_task("cache.samples=1")
    batch = task.batch(range(1))
    assert batch.weights is not None and batch.weights.sum() == 1 and batch.weights[0, 1, 0] == 1
    loss = task.loss(batch, range(1), 0)
    masked = bool(batch.masked[0, 1, 0])
    assert float(loss.weight) == pytest.approx(1.0 if masked else 0.2)
    # Where nothing counts, a step changes nothing by its gradient.
    config = load_config(DenoiserRunConfig, "denoiser.yaml", ["objective.edit_loss_weight=0", "loop.steps=3"])
    train_denoiser(config)
    assert all(np.isfinite(loss) for _, loss in losses("new"))


def test_tokens_train_like_their_images(images: Path, capsys: pytest.CaptureFixture) -> None:
    train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", [*BUCKETS, "loop.steps=2"]))
    tokenize = ["tokenize", "images", "size=32", "flips=true", "caption_lines=true", "buckets={step: 16}"]
    assert main([*tokenize, "-o", "tokens", "--tokenizer", "tokenizer/model", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 10 and report["grids"] == {"4×4": 5, "2×8": 3, "8×2": 2}
    values = {**DENOISER, "output": "of-tokens", "data": {"kind": "tokens", "path": "tokens", "together": 2}}
    del values["cache"]
    write("tokens.yaml", {**values, "validation": {"path": "images", "images": 3}})
    assert main(["train", "tokens.yaml", "--dry-run"]) == 0
    assert "10 images are token shards" in capsys.readouterr().out and not Path("of-tokens").exists()
    shutil.rmtree("images/../new-cache")
    train_denoiser(load_config(DenoiserRunConfig, "tokens.yaml", ["loop.steps=2"]))
    assert losses("of-tokens") == losses("new")
    assert load_denoiser("of-tokens/model").config.image_size == 32
    assert list(Path("of-tokens").glob("tokenizer-400-*.json"))
    shutil.copytree("tokenizer/model", "other")
    before = torch.random.get_rng_state()
    from safetensors.torch import load_file, save_file

    path = next(Path("other").glob("*.safetensors"))
    tensors = load_file(path)
    save_file({name: value + 0.01 for name, value in tensors.items()}, path)
    torch.random.set_rng_state(before)
    with pytest.raises(SmaltiError, match="data.path: tokens holds tokens of another image tokenizer"):
        prepare(load_config(DenoiserRunConfig, "tokens.yaml", ["tokenizer=other", "output=third"]))
    with pytest.raises(SmaltiError, match=r"data: .*nowhere.*tokens.json does not exist"):
        prepare(load_config(DenoiserRunConfig, "tokens.yaml", ["data.path=nowhere", "output=third"]))


def test_tars_train_like_their_folder(images: Path, capsys: pytest.CaptureFixture) -> None:
    train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", [*BUCKETS, "loop.steps=2"]))
    assert main(["pack", "images", "caption_lines=true", "-o", "tars", "--per-tar", "4"]) == 0
    for index in Path("tars").glob("*.index.safetensors"):
        index.unlink()
    data = "data={kind: shards, path: tars, size: 32, buckets: {step: 16}, flips: true, together: 2}"
    overrides = [data, "output=of-tars", "cache.path=tar-cache", "loop.steps=2"]
    capsys.readouterr()
    assert main(["train", "denoiser.yaml", "--dry-run", *overrides]) == 0
    assert "10 images of 10 will be encoded into tar-cache first" in capsys.readouterr().out
    assert sorted(path.name for path in Path("tars").iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]
    assert not Path("tar-cache").exists() and not Path("of-tars").exists()
    train_denoiser(load_config(DenoiserRunConfig, "denoiser.yaml", overrides))
    assert losses("of-tars") == losses("new")
    assert len(list(Path("tars").glob("*.index.safetensors"))) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.buckets={step: 8}"], "data.buckets: a grid's sides must be positive multiples of 2 tokens"),
        (
            ["data.buckets={step: 16}", 'objective.masking={"ordered:order=stratified": 1}'],
            "needs a square grid whose side is a power of two, not 8×2",
        ),
        (
            ["data.size=36", "data.buckets={step: 12, shortest: 24, longest: 48}"],
            "data.size must be a multiple of the tokenizer's 8, not 36",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_named_before_anything_is_encoded(
    images: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(SmaltiError, match=message):
        make_task(*overrides)
    assert not Path("new-cache").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cache=null"], "cache: must have a path for data of kind folder"),
        (["data={kind: scenes}", "cache={path: x}"], "cache: must have samples for data of kind scenes"),
        (["data.buckets={step: 24}"], "data.buckets: size must be a multiple of buckets.step, 24, not 32"),
        (["data.buckets={step: 8, shortest: 8, longest: 64}", "data.size=36"], "data.buckets: size must be"),
        (["data.crop=left"], "data.crop: .*not 'left'"),
        (
            ["data={kind: shards, path: x, captions: [xml]}"],
            "data.captions: captions must be txt or json:KEY",
        ),
        (["data={kind: tokens, path: x, size: 3}"], "unknown key data.size; known here: kind, path"),
    ],
)
def test_wrong_settings_are_named(images: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(SmaltiError, match=message):
        load_config(DenoiserRunConfig, "denoiser.yaml", overrides)


def test_an_image_tokenizer_is_trained_on_squares(images: Path) -> None:
    from smalti.training.config import TokenizerRunConfig
    from smalti.training.tokenizer import TokenizerTask

    def task(*overrides: str) -> Any:
        data = "data={kind: folder, path: images, size: 32, flips: true}"
        return TokenizerTask(load_config(TokenizerRunConfig, "tokenizer.yaml", [data, *overrides]))

    flipped = [torch.equal(task().batch([n])[0], task("data.flips=false").batch([n])[0]) for n in range(12)]
    assert 2 < sum(flipped) < 10
    with pytest.raises(SmaltiError, match="data: buckets must be null"):
        task("data.buckets={step: 16}")
    assert main(["tokenize", "images", "size=32", "-o", "tokens", "--tokenizer", "tokenizer/model"]) == 0
    with pytest.raises(SmaltiError, match="data: kind must be one of images"):
        TokenizerTask(
            load_config(TokenizerRunConfig, "tokenizer.yaml", ["data={kind: tokens, path: tokens}"])
        )
