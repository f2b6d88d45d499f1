"""Sections of configuration files that refuse unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from smalti.common.checks import LARGEST_SEED


def _check_name(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("must be text that is not blank, without NUL")
    return text


Text = Annotated[str, AfterValidator(_check_name)]
"""Text that is not blank, such as a prompt or the name of a file."""

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
"""A seed in a configuration."""


class Strict(BaseModel):
    """A section of a configuration. Unknown keys and infinite numbers are errors, and values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
