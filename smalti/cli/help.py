"""The help of `smalti` itself, which needs neither the commands nor typer."""

from __future__ import annotations

from smalti.cli.commands import COMMANDS

ABOUT = "Smalti: masked discrete diffusion of images, from text to images."
OPTIONS = {"--version": "Show the version and exit.", "--help": "Show this message and exit."}


def print_help() -> None:
    """Print the options and the commands in two panels, as typer shows those of a command."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print()
    usage = Text.assemble(("Usage:", "yellow"), " smalti [OPTIONS] COMMAND [ARGS]...", style="bold")
    console.print(" ", usage, "\n", sep="")
    console.print(Text(f" {ABOUT}\n"))
    rows = {name: listed.summary for name, listed in COMMANDS.items()}
    longest = max(map(len, rows))
    for title, entries in (("Options", OPTIONS), ("Commands", rows)):
        table = Table(show_header=False, expand=True, box=None, pad_edge=False)
        table.add_column(style="bold cyan", no_wrap=True, width=longest)
        table.add_column(ratio=1)
        for name, text in entries.items():
            table.add_row(name, Text(text.replace("`", "")))
        console.print(Panel(table, title=title, title_align="left", border_style="dim"))
