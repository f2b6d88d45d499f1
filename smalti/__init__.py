"""Smalti: masked discrete diffusion of images, from text to pictures.

import smalti
pipe = smalti.load()
pipe("a red circle left of a blue square", seed=0).images[0].save("picture.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.loading import load
    from smalti.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = ["Pipeline", "SmaltiError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import on first use: PyTorch takes a second, which `smalti --help` need not wait for."""
    if name in ("load", "Pipeline"):
        from smalti import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'smalti' has no attribute {name!r}")
