"""`smalti train`, `smalti train-tokenizer`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli.commands import INTERRUPTED
from smalti.cli.output import to_path
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.training.config import RunConfig

Config = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A YAML file.", show_default=False, parser=to_path)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Values in place of the file's, such as loop.steps=2000.",
        show_default=False,
    ),
]


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything up to the first step, then stop; writes no file.")
]


def train(config: Config, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Train a denoiser, or resume one that was stopped. Ctrl-C writes a checkpoint and stops.

    Under torchrun each process runs this command.

    Example: smalti train configs/scenes.yaml loop.steps=2000
    """
    from smalti.training.config import DenoiserRunConfig
    from smalti.training.denoiser import train_denoiser
    from smalti.training.reading import load_config

    _report(train_denoiser, load_config(DenoiserRunConfig, config, overrides), dry_run)


def train_tokenizer(config: Config, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Train an image tokenizer, or resume one that was stopped. Ctrl-C writes a checkpoint and stops.

    Example: smalti train-tokenizer configs/scenes-tokenizer.yaml
    """
    from smalti.training.config import TokenizerRunConfig
    from smalti.training.reading import load_config
    from smalti.training.tokenizer import train_tokenizer

    _report(train_tokenizer, load_config(TokenizerRunConfig, config, overrides), dry_run)


def _report(train: Callable[[Any], dict[str, Any]], config: RunConfig, dry_run: bool) -> None:
    """Run or check a training, and end with the exit code of Ctrl-C if it was stopped before its last step."""
    try:
        if dry_run:
            from smalti.training import dry_run as checking

            print(checking.dry_run(config))
            return
        from smalti.training.launching import under_torchrun

        # A launcher would take the exit code for a failure.
        if train(config)["step"] < config.loop.steps and not under_torchrun():
            raise typer.Exit(INTERRUPTED)
    except SmaltiError as error:
        if error.argument != "device":
            raise
        raise SmaltiError(error.named("loop.device")) from error  # it is a key here, not an option
