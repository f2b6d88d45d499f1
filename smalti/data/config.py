"""The `data` section of a configuration: a union by `kind`, with one entry per source of captioned images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from smalti.common.strict import Strict, Text
from smalti.data.buckets import Shape, bucket_shapes
from smalti.data.folder import ImageFolder
from smalti.data.tars import CAPTIONS, TarShards, parse_place
from smalti.data.tokens import TokenShards, read_description
from smalti.errors import SmaltiError
from smalti.worlds.objects.config import ObjectsConfig
from smalti.worlds.scenes.config import ScenesConfig

Together = Field(
    16, ge=1, le=2**16, description="images of one shape that follow each other; at least a batch is fastest"
)


class BucketsConfig(Strict):
    """Aspect-ratio buckets: shapes with about the area of a square of `data.size`."""

    step: int = Field(64, ge=8, le=1024, description="unit of the sides in pixels")
    shortest: int | None = Field(
        None, ge=8, description="shortest side in pixels; null means half of data.size"
    )
    longest: int | None = Field(None, ge=8, description="longest side in pixels; null means twice data.size")

    def shapes(self, size: int) -> tuple[Shape, ...]:
        """Return the shapes, heights and widths in pixels, for a square of `size`."""
        shortest = self.shortest or -(-size // 2 // self.step) * self.step
        return bucket_shapes(size, self.step, shortest, self.longest or 2 * size // self.step * self.step)


class FilesConfig(Strict):
    """What folders and tar shards have in common."""

    kind: str
    path: Text = Field(description="folder of the images, or of the tars")
    size: int = Field(256, ge=16, le=4096, description="side of the images in pixels")
    crop: Literal["center", "random"] = Field(
        "center", description="part of an image that is kept; random crops differ where an image is repeated"
    )
    flips: bool = Field(
        False, description="whether half of the times an image is shown as its mirror image, left and right"
    )
    buckets: BucketsConfig | None = Field(
        None, description="aspect-ratio buckets; null crops every image to a square"
    )
    together: int = Together

    @field_validator("buckets")
    @classmethod
    def _fit_the_size(cls, buckets: BucketsConfig | None, info: ValidationInfo) -> BucketsConfig | None:
        if buckets is not None and "size" in info.data:
            try:
                buckets.shapes(info.data["size"])
            except SmaltiError as error:
                raise ValueError(str(error)) from error
        return buckets

    @property
    def shapes(self) -> tuple[Shape, ...] | None:
        """Heights and widths of the buckets in pixels, or None for squares alone."""
        return self.buckets.shapes(self.size) if self.buckets else None

    def unseen(self) -> None:
        """Return None: training shows every image of the folder."""
        return None


class FolderConfig(FilesConfig):
    """Your own images with captions; `ImageFolder` explains the layout."""

    kind: Literal["folder"] = "folder"
    caption_lines: bool = Field(False, description="whether each line of a text file is a caption of its own")

    def training(self) -> ImageFolder:
        """Return the folder's images.

        Raises:
            SmaltiError: the folder is missing, or has no usable images.
        """
        return ImageFolder(
            self.path, self.size, crop=self.crop, shapes=self.shapes, caption_lines=self.caption_lines
        )


class ShardsConfig(FilesConfig):
    """Tar shards in WebDataset's layout; `TarShards` explains it."""

    kind: Literal["shards"] = "shards"
    captions: list[str] = Field(
        list(CAPTIONS), min_length=1, description="members that hold captions: txt, or json:KEY"
    )
    index: Text | None = Field(
        None, description="folder for the indexes of the tars; null writes them beside the tars"
    )

    @field_validator("captions")
    @classmethod
    def _are_places(cls, captions: list[str]) -> list[str]:
        for place in captions:
            parse_place(place)
        return captions

    def training(self) -> TarShards:
        """Return the images of the tars.

        Raises:
            SmaltiError: there are no tars, or one is cut short.
        """
        return TarShards(
            self.path, self.size, crop=self.crop, shapes=self.shapes, captions=self.captions, index=self.index
        )


class TokensConfig(Strict):
    """Token shards that `smalti tokenize` wrote: no image is read or encoded."""

    kind: Literal["tokens"] = "tokens"
    path: Text = Field(description="folder of the token shards")
    together: int = Together

    @property
    def size(self) -> int:
        """Side of the images in pixels, as the shards say."""
        data = read_description(Path(self.path))["metadata"].get("data")
        size = data.get("size") if isinstance(data, dict) else None
        if type(size) is not int or not 16 <= size <= 4096:
            raise SmaltiError(f"{self.path} must say the size of its images, not {size!r}")
        return size

    def training(self) -> TokenShards:
        """Return the shards.

        Raises:
            SmaltiError: they are missing or damaged.
        """
        return TokenShards(self.path)

    def unseen(self) -> None:
        """Return None: training shows every image of the shards."""
        return None


def _with_kind(value: Any) -> Any:
    """Return a section with its kind, which defaults to scenes."""
    return {"kind": "scenes", **value} if isinstance(value, dict) else value


DataSection = FolderConfig | ObjectsConfig | ScenesConfig | ShardsConfig | TokensConfig

DataConfig = Annotated[
    Annotated[DataSection, Field(discriminator="kind")],
    BeforeValidator(_with_kind),
]
"""A `data` section, with `training()` and `unseen()`."""


def plain_data(data: DataSection) -> dict[str, Any]:
    """Return the settings of a `data` section that its tokens depend on.

    Settings at their defaults are left out, so that a new setting leaves the tokens of old configurations valid.
    """
    found = {"kind": data.kind, "size": data.size, **data.model_dump(exclude_defaults=True)}
    return {name: value for name, value in found.items() if name not in ("index", "together")}
