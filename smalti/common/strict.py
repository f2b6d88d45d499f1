"""Sections of configuration files that refuse unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A section of a configuration. Unknown keys are errors, and values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
