"""`smalti train`, `smalti train-tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Values in place of the file's, such as loop.steps=2000.",
        show_default=False,
    ),
]


def train(config: Config, overrides: Overrides = None) -> None:
    """Train a denoiser, or go on with a training that was stopped. Ctrl-C stops with a checkpoint.

    Example: smalti train configs/scenes.yaml loop.steps=2000
    """
    from smalti.training.config import DenoiserRunConfig, load_config
    from smalti.training.denoiser import train_denoiser

    train_denoiser(load_config(DenoiserRunConfig, config, overrides))


def train_tokenizer(config: Config, overrides: Overrides = None) -> None:
    """Train an image tokenizer, or go on with a training that was stopped. Ctrl-C stops with a checkpoint.

    Example: smalti train-tokenizer configs/scenes-tokenizer.yaml
    """
    from smalti.training.config import TokenizerRunConfig, load_config
    from smalti.training.tokenizer import train_tokenizer

    train_tokenizer(load_config(TokenizerRunConfig, config, overrides))
