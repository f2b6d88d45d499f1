"""Which model a command uses for images that a model has drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smalti.editing.picture import Picture


def with_own_model(params: Mapping[str, Any], pictures: Sequence[Picture]) -> Mapping[str, Any]:
    """Return a command's parameters with the bundled model that drew its images, where none is named.

    An image's tokens mean something to their own model alone.
    """
    from smalti.storage.loading import BUNDLED_MODELS

    names = {picture.model for picture in pictures}
    name = names.pop() if len(names) == 1 else None
    return {**params, "model": name} if params["model"] is None and name in BUNDLED_MODELS else params
