"""A node between regions of tokens and ComfyUI's masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image
from torch.nn import functional as F

from smalti.common.checks import check_whole
from smalti.editing.canvas import Canvas
from smalti.integrations.comfyui.types import GRID, Grid, check_type

_MOST_GROWTH = 64


class SmaltiGridToMask(io.ComfyNode):
    """A region of tokens as a MASK of the image's size."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="SmaltiGridToMask",
            display_name="Smalti Grid to Mask",
            category="smalti",
            description="Makes a MASK of the tokens that an edit filled again.",
            inputs=[
                GRID.Input("region"),
                io.Int.Input("grow", default=0, min=0, max=_MOST_GROWTH, tooltip="Tokens to add around it."),
                io.Boolean.Input("invert", default=False, tooltip="Select the other tokens."),
            ],
            outputs=[io.Mask.Output("mask", display_name="mask")],
        )

    @classmethod
    def execute(cls, region: Any, grow: int = 0, invert: bool = False) -> Any:
        """Return the masks, (B, H, W) float32 of 0 and 1."""
        check_type("region", region, Grid, "one of Smalti's editing nodes")
        grow = check_whole("grow", grow, 0, _MOST_GROWTH)
        cells = F.max_pool2d(region.cells[:, None].float(), 2 * grow + 1, stride=1, padding=grow)[:, 0] > 0
        masks = [
            _lifted(one.numpy() ^ bool(invert), canvas)
            for one, canvas in zip(cells, region.canvases, strict=True)
        ]
        return io.NodeOutput(torch.stack(masks))


def _lifted(cells: np.ndarray, canvas: Canvas) -> torch.Tensor:
    """Return cells (h, w) bool as pixels (H, W) of the image on the canvas, float32 of 0 and 1."""
    height, width = canvas.canvas
    values = (
        cells.astype(np.float32).repeat(height // len(cells), axis=0).repeat(width // cells.shape[1], axis=1)
    )
    lifted = canvas.lift(Image.fromarray(values), (0, canvas.size[0]))
    return torch.from_numpy((np.asarray(lifted) >= 0.5).astype(np.float32))
