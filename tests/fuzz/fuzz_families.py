"""Bad inputs by family. A family prepares the files of one case in the current folder and returns a command line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import typer.main
import yaml
from folders import write_tiny_model
from fuzz_values import TEXTS, VALUES, change, damage, deep
from PIL import Image, PngImagePlugin
from trainings import DENOISER, TOKENIZER

from smalti.cli.main import app, main

# Options that take long or that end before anything happens.
_LEFT_OUT = {"--help", "--compile", "--no-compile", "--hub-revision"}
_SIDE = 64


def make_base(folder: Path) -> None:
    """Write what all cases start from: a tiny model, images, a data folder, an image tokenizer."""
    write_tiny_model(folder / "model")
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8))
    image.save(folder / "image.png")
    image.convert("L").point(lambda value: 255 * (value > 128)).save(folder / "mask.png")
    assert main(line("generate", "a red circle", "-o", folder / "drawn.png", base=folder)) == 0
    for index in range(3):
        (folder / "data").mkdir(exist_ok=True)
        image.resize((48, 40)).save(folder / "data" / f"{index}.png")
        (folder / "data" / f"{index}.txt").write_text(f"a red circle {index}")


def line(command: str, *arguments: Any, base: Path, steps: int = 1) -> list[str]:
    """Return a command line that draws with the tiny model."""
    drawn = ["--model", base / "model", "--steps", steps, "--seed", 1]
    return [str(argument) for argument in (command, *arguments, *drawn)]


def base_lines(base: Path) -> dict[str, list[str]]:
    """Return a right command line of each command."""
    model, image = base / "model", base / "image.png"
    return {
        "generate": line("generate", "a red circle", "-o", "out.png", base=base),
        "edit": line("edit", image, "a blue square", "-o", "out.png", "--strength", 0.5, base=base),
        "inpaint": line("inpaint", image, "a cat", "-o", "out.png", "--mask", base / "mask.png", base=base),
        "outpaint": line("outpaint", image, "a cat", "-o", "out.png", "--left", 8, base=base),
        "vary": line("vary", image, "a cat", "-o", "out.png", base=base),
        "info": ["info", str(model)],
        "average": ["average", str(model), str(model), "-o", "averaged"],
        "groups": ["groups", str(model), "-o", "groups.safetensors", "--count", "4"],
        "evaluate": line("evaluate", "contrast", "--images", 1, base=base),
        "train": ["train", "config.yaml"],
        "train-tokenizer": ["train-tokenizer", "config.yaml"],
    }


@cache
def option_names(command: str) -> tuple[tuple[str, bool], ...]:
    """Return the options of a command, and whether each is a flag."""
    group: Any = typer.main.get_command(app)
    found = []
    for parameter in group.commands[command].params:
        for name in parameter.opts if parameter.param_type_name == "option" else ():
            if name not in _LEFT_OUT:
                found.append((name, bool(parameter.is_flag)))
    return tuple(found)


def given(random: Random, command: str, values: list[str], count: int) -> list[str]:
    """Return random options of a command with random values."""
    found: list[str] = []
    for name, flag in random.sample(option_names(command), min(count, len(option_names(command)))):
        found += [name] if flag else [name, random.choice(values)]
    return found


def options(random: Random, base: Path) -> list[str]:
    """One option with a wrong value."""
    command = random.choice([name for name in base_lines(base) if not name.startswith("train")])
    return base_lines(base)[command] + given(random, command, TEXTS, 1)


_PLAUSIBLE = [*"0 1 2 3 8 16 32 64 0.5 0.9 100 cosine linear random halton draw list history prompt".split()]
_PLAUSIBLE += ["none", "shift:5", "adaptive", "threshold:0.5", "0.1 0.5", "cpu", "float32", "int8", "argmax"]


def combinations(random: Random, base: Path) -> list[str]:
    """Several options whose values are right for some option; an argument more, less, or wrong."""
    command = random.choice([name for name in base_lines(base) if not name.startswith("train")])
    arguments = base_lines(base)[command]
    how = random.random()
    if how < 0.1:
        del arguments[random.randrange(len(arguments))]
    elif how < 0.2:
        arguments.insert(random.randrange(len(arguments) + 1), random.choice(TEXTS))
    elif how < 0.3:
        arguments[random.randrange(len(arguments))] = random.choice(TEXTS)
    return arguments + given(random, command, [*_PLAUSIBLE, random.choice(TEXTS)], random.randint(1, 4))


def _configuration(command: str, base: Path) -> dict[str, Any]:
    """Return a training of one step on a few images."""
    loop = {"steps": 1, "batch_size": 2, "log_every": 1, "preview_every": 5, "checkpoint_every": 5}
    data = {"kind": "folder", "path": str(base / "data"), "size": 32}
    if command == "train-tokenizer":
        return {**TOKENIZER, "output": "run", "data": data, "loop": loop}
    run = {**DENOISER, "output": "run", "tokenizer": str(base / "model"), "data": data, "loop": loop}
    return {**run, "cache": {"path": "cache", "samples": 3}, "optimizer": {"betas": [0.9, 0.95]}}


def yaml_files(random: Random, base: Path) -> list[str]:
    """A training's configuration with wrong values or damaged text, or a wrong override."""
    command = random.choice(["train", "train-tokenizer"])
    values = _configuration(command, base)
    arguments = [command, "config.yaml"]
    how = random.random()
    if how < 0.7:
        values = change(random, values)
    text = yaml.safe_dump(values)
    if how > 0.85:
        keys = [
            "loop.steps",
            "seed",
            "output",
            "data.path",
            "cache.samples",
            "optimizer.betas",
            "model",
            "a.b",
            "",
        ]
        arguments.append(f"{random.choice(keys)}={random.choice(TEXTS)}")
    elif how > 0.8:
        text += random.choice(
            ["a: &a [1]\nb: *a\n", "loop: {}\n", "a: !!python/name:os.system\n", "\t:", "? [1]: 2\n"]
        )
    data = text.encode()
    Path("config.yaml").write_bytes(damage(random, data) if 0.7 <= how <= 0.8 else data)
    return arguments


def _model(base: Path) -> Path:
    shutil.copytree(base / "model", "model")
    return Path("model")


def _reader(random: Random) -> list[str]:
    """Return a command that reads the folder `model`."""
    return random.choice(
        [
            ["generate", "a red circle", "-o", "out.png", "--model", "model", "--steps", "1"],
            ["info", "model"],
            [
                "generate",
                "a red circle",
                "-o",
                "out.png",
                "--model",
                "model",
                "--steps",
                "1",
                "--preset",
                "fast",
            ],
            ["average", "model", "model", "-o", "averaged"],
            ["groups", "model", "-o", "groups.safetensors", "--count", "4"],
            ["evaluate", "tokenizer", "--images", "1", "--model", "model"],
        ]
    )


def _rewrite(random: Random, path: Path) -> None:
    """Change, damage or replace a JSON file."""
    values = json.loads(path.read_text())
    how = random.random()
    if how < 0.7:
        text = json.dumps(change(random, values, random.choice((1, 1, 2))))
    elif how < 0.75:
        key = random.choice(list(values))
        text = json.dumps({**values, key: "HERE"}).replace('"HERE"', "[" * 100_000)
    elif how < 0.8:
        text = json.dumps({**values, random.choice(list(values)): deep(random)})
    else:
        path.write_bytes(damage(random, path.read_bytes()))
        return
    path.write_text(text)


def models(random: Random, base: Path) -> list[str]:
    """A model folder whose configuration is wrong, or whose files are something else."""
    folder = _model(base)
    path = folder / random.choice(["config.json", "config.json", "vq/config.json"])
    if random.random() < 0.8:
        _rewrite(random, path)
    else:
        path = random.choice([entry for entry in folder.rglob("*") if entry.is_file()])
        path.unlink()
        random.choice(
            [
                path.mkdir,
                lambda: os.mkfifo(path),
                lambda: path.symlink_to(path.name),
                lambda: path.symlink_to("/dev/zero"),
                lambda: None,
            ]
        )()
    return _reader(random)


def weights(random: Random, base: Path) -> list[str]:
    """Weights that are damaged, of other shapes, or whose index is wrong."""
    folder = _model(base)
    path = folder / random.choice(["model.safetensors", "vq/model.safetensors"])
    data = path.read_bytes()
    how = random.random()
    if how < 0.5:
        path.write_bytes(damage(random, data))
    elif how < 0.9:
        length = int.from_bytes(data[:8], "little")
        header = json.dumps(change(random, json.loads(data[8 : 8 + length]))).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    else:
        path.rename(path.with_name("model-00001-of-00001.safetensors"))
        index = {"weight_map": {"encoder.norm.weight": "model-00001-of-00001.safetensors"}}
        path.with_name("model.safetensors.index.json").write_text(json.dumps(change(random, index)))
    return _reader(random)


def tokenizers(random: Random, base: Path) -> list[str]:
    """A tokenizer.json that is wrong."""
    _rewrite(random, _model(base) / "tokenizer.json")
    return ["generate", "a red circle", "-o", "out.png", "--model", "model", "--steps", "1"]


_MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
_FORMATS = ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "ICO", "TGA"]


def _image(random: Random) -> bytes:
    """Return an image file of any mode, size and format, damaged more often than not."""
    size = random.choice([(1, 1), (64, 64), (1, 3000), (3000, 1), (65, 63), (0, 0)])
    file = BytesIO()
    try:
        image = Image.new(random.choice(_MODES), size)
        options: dict[str, Any] = {}
        if random.random() < 0.3:
            options["exif"] = b"Exif\0\0" + random.randbytes(random.choice((0, 8, 100)))
        if random.random() < 0.3:
            options["icc_profile"] = random.randbytes(random.choice((0, 128, 1000)))
        image.save(file, random.choice(_FORMATS), **options)
    except Exception:  # Pillow raises anything for modes and texts that a format cannot hold
        Image.new("RGB", (64, 64)).save(file, "PNG")
    data = file.getvalue()
    return damage(random, data) if random.random() < 0.6 else data


def images(random: Random, base: Path) -> list[str]:
    """An edit of an image, or with a mask, that is odd or damaged."""
    Path("odd.png").write_bytes(_image(random))
    command = random.choice(["edit", "inpaint", "outpaint", "vary"])
    arguments = base_lines(base)[command]
    if command == "inpaint" and random.random() < 0.5:
        return [argument.replace(str(base / "mask.png"), "odd.png") for argument in arguments]
    return [argument.replace(str(base / "image.png"), "odd.png") for argument in arguments]


def png_texts(random: Random, base: Path) -> list[str]:
    """An edit of an image whose texts lie."""
    with Image.open(base / "drawn.png") as image:
        image.load()
        texts = dict(image.text)  # type: ignore[attr-defined]
    key = random.choice(["smalti-tokens", "smalti-tokens", "prompt", "settings", "seed"])
    if key == "smalti-tokens" and random.random() < 0.8:
        texts[key] = json.dumps(change(random, json.loads(texts[key]), random.choice((1, 2))))
    else:
        texts[key] = random.choice([*TEXTS, "[" * 100_000, "x" * 2_000_000]).replace("\udcff", "?")
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text, zip=len(text) > 5000)
    image.save("lies.png", pnginfo=info)
    return [argument.replace(str(base / "image.png"), "lies.png") for argument in base_lines(base)["edit"]]


def data_folders(random: Random, base: Path) -> list[str]:
    """A training on a folder of images and captions that are odd or damaged."""
    command = random.choice(["train", "train-tokenizer"])
    folder = Path("data")
    shutil.copytree(base / "data", folder)
    for _ in range(random.choice((1, 1, 3))):
        _add_odd_file(random, folder)
    values = _configuration(command, base)
    values["data"]["path"] = "data"
    Path("config.yaml").write_text(yaml.safe_dump(values))
    return [command, "config.yaml"]


def _add_odd_file(random: Random, folder: Path) -> None:
    """Add an image, a caption or metadata that are odd, or another kind of file."""
    how = random.randrange(6)
    name = f"{random.randrange(5)}"
    if how == 0:
        (folder / f"{name}.png").write_bytes(_image(random))
    elif how == 1:
        (folder / f"{name}.txt").write_bytes(damage(random, "a red circle\n★".encode()))
    elif how == 2:
        entry = change(random, {"file_name": f"{name}.png", "text": "a caption", "more": [1]})
        text = json.dumps(entry) + "\n" + random.choice(["", "{", "[" * 100_000, "\u2028", "1"])
        (folder / "metadata.jsonl").write_text(text)
    elif how == 3:
        (folder / "metadata.csv").write_bytes(damage(random, b"file_name,text\n0.png,a cat\n"))
    elif how == 4:
        (folder / f"{name}.txt").write_text(random.choice(TEXTS).replace("\udcff", "?"))
    else:
        path = folder / f"odd{name}{random.choice(['.png', '.txt', '.jsonl'])}"
        random.choice([path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")])()


FAMILIES: dict[str, Callable[[Random, Path], list[str]]] = {
    "options": options,
    "combinations": combinations,
    "yaml": yaml_files,
    "models": models,
    "weights": weights,
    "tokenizers": tokenizers,
    "images": images,
    "png": png_texts,
    "data": data_folders,
}


def cases(count: int) -> Iterator[tuple[str, int]]:
    """Yield `count` cases, family by family in turn: the family's name and the case's number in it."""
    names = list(FAMILIES)
    for number in range(count):
        yield names[number % len(names)], number // len(names)


def make_case(family: str, number: int, seed: int, base: Path) -> list[str]:
    """Prepare a case in the current folder and return its command line; it depends on nothing but the arguments."""
    return FAMILIES[family](Random(f"{seed}/{family}/{number}"), base)


__all__ = ["FAMILIES", "VALUES", "cases", "make_base", "make_case"]
