"""Options of settings, derived from their declarations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from smalti.generation.declaration import Declaration, Rule

SAMPLING = "Sampling (by default as the model's config.json says)"
"""Panel of the settings in the help of a command."""


def setting_option(name: str, declared: Declaration) -> Any:
    """Return the annotation of a setting's option."""
    kind = declared.kind
    listed = isinstance(kind, Rule)
    option = declared.option_name(name)
    option_type: Any = kind.type
    return Annotated[
        option_type | None,
        typer.Option(
            option,
            help=f"{declared.help} {option} list shows all." if listed else declared.help,
            metavar=declared.metavar,
            show_default=False,
            rich_help_panel=SAMPLING,
            is_eager=listed,
            callback=_list_rules(kind) if isinstance(kind, Rule) else None,
        ),
    ]


def _list_rules(kind: Rule) -> Callable[[str | None], str | None]:
    """Return a callback that prints the rules of a kind where the option's value is "list"."""

    def callback(value: str | None) -> str | None:
        if value == "list":
            print(kind.describe())
            raise typer.Exit
        return value

    return callback
