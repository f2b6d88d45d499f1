"""Smalti's nodes for ComfyUI. The code is in the package smalti: `smalti/integrations/comfyui`."""

try:
    from smalti.integrations.comfyui import comfy_entrypoint
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "smalti":
        raise
    raise ImportError(
        "Smalti's nodes need the package smalti in ComfyUI's environment: see README.md"
    ) from error

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
