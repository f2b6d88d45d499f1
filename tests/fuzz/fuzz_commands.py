"""What bad inputs start from: a small model, the bundled one, images, data, and a right line of each command.

The families whose inputs are command lines alone are here, too, and those of training configurations.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import typer.main
import yaml
from adapters import write_adapter
from folders import write_tiny_model
from fuzz_values import TEXTS, change, damage
from PIL import Image
from sprites import write_sprites
from trainings import DENOISER, TOKENIZER

from smalti.cli.app import app
from smalti.cli.main import main
from smalti.generation.declaration import Choice, Pair, Rule, declaration
from smalti.generation.settings import GenerationSettings
from smalti.storage.loading import BUNDLED_MODELS, DEFAULT_MODEL

# Options that take long or that end before anything happens.
_LEFT_OUT = {"--help", "--compile", "--no-compile", "--hub-revision"}

BASES = {"tiny": 0.97, "bundled": 0.03}
"""Names of the bases, and the share of the inputs that start from each."""

ADAPTERS = ("lora", "dora")
"""Names of the adapters of each base, which are their kinds."""


def make_base(folder: Path) -> None:
    """Write what the inputs start from, once for each of `BASES`: a model, images, a data folder."""
    for name, side in zip(BASES, (64, 256), strict=True):
        base = folder / name
        base.mkdir()
        if name == "tiny":
            write_tiny_model(base / "model")
        else:
            (base / "model").symlink_to(BUNDLED_MODELS[DEFAULT_MODEL])
        rng = np.random.default_rng(0)
        image = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        image.save(base / "image.png")
        image.convert("L").point(lambda value: 255 * (value > 128)).save(base / "mask.png")
        assert main(line("generate", "a red circle", "-o", base / "drawn.png", base=base)) == 0
        write_sprites(base)
        for kind in ADAPTERS:
            write_adapter(base / kind, base / "model", kind)
        (base / "data").mkdir()
        for index in range(3):
            image.resize((48, 40)).save(base / "data" / f"{index}.png")
            (base / "data" / f"{index}.txt").write_text(f"a red circle {index}")


def line(command: str, *arguments: Any, base: Path, steps: int = 1) -> list[str]:
    """Return a command line that draws with the tiny model."""
    drawn = ["--model", base / "model", "--steps", steps, "--seed", 1]
    return [str(argument) for argument in (command, *arguments, *drawn)]


def base_lines(base: Path) -> dict[str, list[str]]:
    """Return a right command line of each command; a name is the command, and what tells apart two lines of one."""
    model, image = base / "model", base / "image.png"
    return {
        "generate": line("generate", "a red circle", "-o", "out.png", base=base),
        "edit": line("edit", image, "a blue square", "-o", "out.png", "--strength", 0.5, base=base),
        "inpaint": line("inpaint", image, "a cat", "-o", "out.png", "--mask", base / "mask.png", base=base),
        "outpaint": line("outpaint", image, "a cat", "-o", "out.png", "--left", 8, base=base),
        "vary": line("vary", image, "a cat", "-o", "out.png", base=base),
        "info": ["info", str(model)],
        "average": ["average", str(model), str(model), "-o", "averaged"],
        "merge": ["merge", str(model), str(base / "lora"), "-o", "merged"],
        "groups": ["groups", str(model), "-o", "groups.safetensors", "--groups", "4"],
        "evaluate": line("evaluate", "contrast", "--images", 1, base=base),
        "evaluate scenes": line("evaluate", "scenes", "--images", 1, base=base),
        "evaluate edits": line("evaluate", "edits", "--images", 1, base=base),
        "evaluate tokenizer": ["evaluate", "tokenizer", "--images", "1", "--model", str(model)],
        "evaluate folder": ["evaluate", "scenes", "--folder", str(base / "data")],
        "train": ["train", "config.yaml"],
        "train-tokenizer": ["train-tokenizer", "config.yaml"],
    }


@contextmanager
def unlimited() -> Iterator[None]:
    """Let Python write values that are nested more deeply than it usually goes."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        yield
    finally:
        sys.setrecursionlimit(usual)


@cache
def option_names(command: str) -> tuple[tuple[str, bool], ...]:
    """Return the options of a command, and whether each is a flag."""
    group: Any = typer.main.get_command(app)
    found = []
    for parameter in group.commands[command.split()[0]].params:
        for name in parameter.opts if parameter.param_type_name == "option" else ():
            if name not in _LEFT_OUT:
                found.append((name, bool(parameter.is_flag)))
    return tuple(found)


def given(random: Random, command: str, values: list[str], count: int, fitting: float = 0.0) -> list[str]:
    """Return random options of a command with random values.

    Args:
        random: source of the choice.
        command: a name of `base_lines`.
        values: values that an option gets.
        count: number of options.
        fitting: share of options whose value fits, if it is known what fits.
    """
    found: list[str] = []
    for name, flag in random.sample(option_names(command), min(count, len(option_names(command)))):
        chosen = [] if flag else [random.choice(values)]
        if name in fitting_values() and random.random() < fitting:
            chosen = random.choice(fitting_values()[name]).split()
        found += [name, *chosen]
    return found


@cache
def fitting_values() -> dict[str, list[str]]:
    """Return values that fit the option of each setting, by the option."""
    found = {}
    for field in dataclasses.fields(GenerationSettings):
        declared = declaration(field)
        kind = declared.kind
        if isinstance(kind, Rule):
            values = list(kind.rules())
        elif isinstance(kind, Choice):
            values = list(kind.names)
        elif isinstance(kind, Pair):
            values = ["0 1", "0.1 0.5", "0.5 0.5"]
        else:
            values = ["1", "8", "64", "1000"] if kind.type is int else ["0", "0.2", "0.9", "1", "7.5"]
        found[declared.option_name(field.name)] = values
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
    return arguments + given(random, command, [*_PLAUSIBLE, random.choice(TEXTS)], random.randint(1, 4), 0.8)


def configuration(command: str, base: Path) -> dict[str, Any]:
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
    values = configuration(command, base)
    arguments = [command, "config.yaml", *["--dry-run"] * (random.random() < 0.1)]
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
