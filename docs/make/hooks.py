"""Hooks of mkdocs: "Example:" in docstrings, and links to files of the repository that are not part of the site."""

from __future__ import annotations

import re
from typing import Any

from griffe import DocstringSectionKind
from griffe._internal.docstrings import google
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make "Example:" a section of docstrings; griffe knows "Examples:" only."""
    google._section_kind["example"] = DocstringSectionKind.examples
    return config


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Replace links of a page to files outside of docs/ by their texts."""
    return markdown if "/" in page.file.src_uri else _OUTSIDE.sub(r"\1", markdown)
