"""Sections of configuration files that refuse unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from smalti.common.checks import LARGEST_SEED

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
"""A seed in a configuration."""


class Strict(BaseModel):
    """A section of a configuration. Unknown keys are errors, and values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
