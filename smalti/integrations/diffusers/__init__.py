"""Smalti as pipelines of diffusers, an optional dependency."""

import logging

from smalti.errors import SmaltiError

_LEVEL = logging.root.manager.disable
logging.disable(logging.WARNING)  # diffusers imports torchao, which warns of optional kernels
try:
    import diffusers  # noqa: F401 - its absence is one clear line

    from smalti.integrations.diffusers.inpaint import SmaltiInpaintPipeline
    from smalti.integrations.diffusers.output import SmaltiPipelineOutput
    from smalti.integrations.diffusers.text_to_image import SmaltiPipeline
except ImportError as error:
    raise SmaltiError(
        f"smalti.integrations.diffusers needs diffusers: pip install 'smalti[diffusers]' ({error})"
    ) from error
finally:
    logging.disable(_LEVEL)

__all__ = ["SmaltiInpaintPipeline", "SmaltiPipeline", "SmaltiPipelineOutput"]
