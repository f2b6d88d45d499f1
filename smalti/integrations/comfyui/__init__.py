"""Smalti as nodes of ComfyUI, which imports them from the folder `comfyui/` of the repository."""

from smalti.errors import SmaltiError

try:
    import comfy_api.latest  # noqa: F401 - its absence is one clear line

    from smalti.integrations.comfyui.extension import NODES, SmaltiExtension, comfy_entrypoint
except ImportError as error:
    raise SmaltiError(
        f"smalti.integrations.comfyui runs inside ComfyUI, whose modules are missing here ({error})"
    ) from error

__all__ = ["NODES", "SmaltiExtension", "comfy_entrypoint"]
