"""Smalti: masked discrete diffusion of images, from text to images.

import smalti
pipe = smalti.load()
pipe("a red circle left of a blue square", seed=0).images[0].save("circle.png")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.components import Components
    from smalti.editing.selection import Selection
    from smalti.generation.settings import GenerationSettings
    from smalti.pipeline import Pipeline, load

__version__ = "0.1.0"
__all__ = ["Components", "GenerationSettings", "Pipeline", "Selection", "SmaltiError", "__version__", "load"]

_LAZY = {
    "Components": "smalti.components",
    "GenerationSettings": "smalti.generation.settings",
    "Pipeline": "smalti.pipeline",
    "Selection": "smalti.editing.selection",
    "load": "smalti.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import on first use: PyTorch takes a second, which `smalti --help` need not wait for."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'smalti' has no attribute {name!r}")
