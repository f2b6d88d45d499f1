"""The extension that ComfyUI asks for its nodes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import ComfyExtension

from smalti.integrations.comfyui import folders
from smalti.integrations.comfyui.drawing import SmaltiPrompt, SmaltiSample
from smalti.integrations.comfyui.editing import SmaltiEdit, SmaltiInpaint, SmaltiOutpaint, SmaltiVary
from smalti.integrations.comfyui.loading import SmaltiAdapter, SmaltiLoad
from smalti.integrations.comfyui.regions import SmaltiGridToMask
from smalti.integrations.comfyui.settings import SmaltiSettings
from smalti.integrations.comfyui.tokens import (
    SmaltiDecode,
    SmaltiEncode,
    SmaltiLoadTokens,
    SmaltiSaveTokens,
)

NODES: tuple[type[Any], ...] = (
    SmaltiLoad,
    SmaltiAdapter,
    SmaltiPrompt,
    SmaltiSettings,
    SmaltiSample,
    SmaltiDecode,
    SmaltiEncode,
    SmaltiLoadTokens,
    SmaltiSaveTokens,
    SmaltiEdit,
    SmaltiInpaint,
    SmaltiOutpaint,
    SmaltiVary,
    SmaltiGridToMask,
)
"""The nodes, as the menu lists them."""


class SmaltiExtension(ComfyExtension):
    """Smalti's nodes."""

    async def get_node_list(self) -> list[type[Any]]:
        """Return the nodes."""
        return list(NODES)


async def comfy_entrypoint() -> SmaltiExtension:
    """Return the extension; ComfyUI calls this once, when it starts."""
    folders.register()
    return SmaltiExtension()
