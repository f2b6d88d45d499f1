"""The `data` section of a configuration: a union by `kind`, with one entry per source of captioned images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from smalti.common.strict import Strict, Text
from smalti.data.folder import ImageFolder
from smalti.worlds.objects.config import ObjectsConfig
from smalti.worlds.scenes.config import ScenesConfig


class FolderConfig(Strict):
    """Your own images with captions; `ImageFolder` explains the layout."""

    kind: Literal["folder"] = "folder"
    path: Text = Field(description="folder of the images")
    size: int = Field(256, ge=16, le=4096, description="side of the images in pixels")

    def training(self) -> ImageFolder:
        """Return the folder's images.

        Raises:
            SmaltiError: the folder is missing, or has no usable images.
        """
        return ImageFolder(self.path, self.size)

    def unseen(self) -> None:
        """Return None: training shows every image of the folder."""
        return None


def _with_kind(value: Any) -> Any:
    """Return a section with its kind, which defaults to scenes."""
    return {"kind": "scenes", **value} if isinstance(value, dict) else value


DataConfig = Annotated[
    Annotated[FolderConfig | ObjectsConfig | ScenesConfig, Field(discriminator="kind")],
    BeforeValidator(_with_kind),
]
