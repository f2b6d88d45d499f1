"""`load` and `Pipeline`: a model that draws, edits and reads, the one object that a user holds."""

from smalti.pipeline.callbacks import Callback
from smalti.pipeline.loading import load
from smalti.pipeline.pipeline import Pipeline

__all__ = ["Callback", "Pipeline", "load"]
