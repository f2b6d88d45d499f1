"""The models of a server by name, and other names that clients use for them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from smalti.errors import SmaltiError
from smalti.pipeline import Pipeline
from smalti.serving.errors import ApiError


class Models:
    """Models that were loaded at the start; no request loads another one.

    Args:
        pipelines: models by name; the first one is the default.
        aliases: other names of the default model, such as those that clients have built in.

    Raises:
        SmaltiError: an alias is the name of a model.
    """

    def __init__(self, pipelines: Mapping[str, Pipeline], aliases: Sequence[str] = ()) -> None:
        self._pipelines = dict(pipelines)
        self.default = next(iter(self._pipelines))
        for alias in aliases:
            if alias in self._pipelines or not alias:
                raise SmaltiError(f"alias must be a new name, not {alias!r}", argument="alias")
        self._aliases = list(dict.fromkeys(aliases))
        self._created = int(time.time())

    @property
    def names(self) -> list[str]:
        """Names of the models, the default one first."""
        return list(self._pipelines)

    def find(self, name: str | None) -> tuple[str, Pipeline]:
        """Return the model of a name or an alias; None is the default one.

        Raises:
            ApiError: 404, with the names that there are.
        """
        own = self.default if name is None or name in self._aliases else name
        if own not in self._pipelines:
            known = ", ".join([*self._pipelines, *self._aliases])
            raise ApiError(
                404, f"the model {own[:80]!r} does not exist; there are {known}", "model_not_found", "model"
            )
        return own, self._pipelines[own]

    def describe(self, name: str) -> dict[str, Any]:
        """Return a model as OpenAI's clients read it; an alias says which model it stands for.

        Raises:
            ApiError: 404, with the names that there are.
        """
        own, _ = self.find(name)
        more = {} if own == name else {"root": own}
        return {"id": name, "object": "model", "created": self._created, "owned_by": "smalti", **more}

    def listing(self) -> dict[str, Any]:
        """Return every model and every alias."""
        names = [*self._pipelines, *self._aliases]
        return {"object": "list", "data": [self.describe(name) for name in names]}
