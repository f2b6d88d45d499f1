"""Write docs/settings.md, the table of every setting and every rule, from their declarations.

python tools/settings_table.py
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from smalti.common.files import write_text_atomic
from smalti.generation.declaration import Rule, declaration
from smalti.generation.settings import GenerationSettings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

_INTRODUCTION = """# Settings

`tools/settings_table.py` writes this page from the declarations in `smalti/generation/settings.py`. A model's own
settings in its `config.json` come before these defaults.

"""


def page() -> str:
    """Return the text of docs/settings.md."""
    parts = [_INTRODUCTION + GenerationSettings.describe()]
    for field in dataclasses.fields(GenerationSettings):
        kind = declaration(field).kind
        if isinstance(kind, Rule):
            option = declaration(field).option_name(field.name)
            parts.append(f"## Rules of `{option}`\n\n```text\n{kind.describe()}\n```\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    write_text_atomic(PAGE, page())


if __name__ == "__main__":
    main()
