"""Bad inputs by family. A family prepares the files of one case in the current folder and returns a command line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import yaml
from fuzz_calls import calls
from fuzz_commands import (
    ADAPTERS,
    BASES,
    base_lines,
    combinations,
    configuration,
    options,
    unlimited,
    yaml_files,
)
from fuzz_requests import requests
from fuzz_values import TEXTS, change, damage, deep
from PIL import Image, PngImagePlugin


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
            ["groups", "model", "-o", "groups.safetensors", "--groups", "4"],
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
    if random.random() < 0.9:
        _damage_weights(random, path)
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
    values = configuration(command, base)
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
        if not os.path.lexists(path):
            random.choice([path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")])()


def adapters(random: Random, base: Path) -> list[str]:
    """An adapter whose configuration is wrong, or whose weights are damaged or of other shapes."""
    folder = Path("adapter")
    shutil.copytree(base / random.choice(ADAPTERS), folder)
    if random.random() < 0.5:
        _rewrite(random, folder / "adapter_config.json")
    else:
        _damage_weights(random, folder / "adapter_model.safetensors")
    drawn = ["generate", "a red circle", "-o", "out.png", "--model", str(base / "model"), "--steps", "1"]
    return random.choice(
        [
            [*drawn, "--adapter", "adapter"],
            [*drawn, "--adapter", "adapter", "--adapter-scale", random.choice(["0", "0.5", "-1", "1e30"])],
            ["merge", str(base / "model"), "adapter", "-o", "merged"],
        ]
    )


def _damage_weights(random: Random, path: Path) -> None:
    """Damage a file of weights, or change what its header says."""
    data = path.read_bytes()
    if random.random() < 0.5:
        path.write_bytes(damage(random, data))
        return
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(change(random, json.loads(data[8 : 8 + length]))).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def archives(random: Random, base: Path) -> list[str]:
    """A training on scenes from a sprite archive that is damaged, lies about its images, or is no archive."""
    how, path = random.random(), Path("sprites.zip")
    with ZipFile(base / "sprites.zip") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    if how < 0.4:
        path.write_bytes(damage(random, (base / "sprites.zip").read_bytes()))
    elif how < 0.95:
        lines = entries["index.jsonl"].decode().splitlines()
        if how < 0.7:
            for _ in range(random.choice((1, 3))):
                place = random.randrange(len(lines))
                lines[place] = json.dumps(change(random, json.loads(lines[place])))
        elif how < 0.8:
            lines[random.randrange(len(lines))] = random.choice(["", "{", "[" * 100_000, "1", "null"])
        else:
            name = random.choice([name for name in entries if name != "index.jsonl"])
            entries[name] = _image(random)
        with ZipFile(path, "w", random.choice((ZIP_STORED, ZIP_STORED, ZIP_DEFLATED))) as archive:
            for name, content in entries.items():
                archive.writestr(name, "\n".join(lines) if name == "index.jsonl" else content)
    else:
        random.choice([path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")])()
    values = configuration("train-tokenizer", base)
    values["data"] = {"kind": "objects", "archive": "sprites.zip", "size": 32}
    if random.random() < 0.2:
        values["data"] = change(random, {**values["data"], "mix": {"colors": 1}, "styles": {"noto": 1}})
    Path("config.yaml").write_text(yaml.safe_dump(values))
    return ["train-tokenizer", "config.yaml"]


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
    "adapters": adapters,
    "archives": archives,
    "python": calls,
    "http": requests,
}


def cases(count: int) -> Iterator[tuple[str, int]]:
    """Yield `count` cases, family by family in turn: the family's name and the case's number in it."""
    names = list(FAMILIES)
    for number in range(count):
        yield names[number % len(names)], number // len(names)


def make_case(family: str, number: int, seed: int, bases: Path) -> list[str]:
    """Prepare a case in the current folder and return its command line; it depends on nothing but the arguments.

    Args:
        family: name of the family.
        number: number of the case in its family.
        seed: seed of all cases.
        bases: folder that `make_base` wrote.
    """
    random = Random(f"{seed}/{family}/{number}")
    (name,) = Random(f"base of {seed}/{family}/{number}").choices([*BASES], [*BASES.values()])
    with unlimited():
        return FAMILIES[family](random, bases / name)
