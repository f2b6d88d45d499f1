"""Write a small copy of a sprite archive, for machines that only little can be carried to.

Images become lossy WebP files, and three-dimensional things keep their views from the front. The splits stay those of
the whole archive: a drawing that is held out there and would be trained on here is left out.

    python tools/small_archive.py objects small [--quality 78] [--styles fluent-3d,3d-model]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image

from smalti.worlds.objects.archive import ARCHIVE_NAME, Sprite, SpriteArchive, write_archive
from smalti.worlds.objects.splits import split_sprites

FRONT = 60  # degrees to either side


def main() -> None:
    """Write the copy and print how large it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", help="folder of the archive")
    parser.add_argument("output", type=Path, help="folder of the copy")
    parser.add_argument("--quality", type=int, default=78, help="quality of WebP, from 0 to 100")
    parser.add_argument("--styles", help="styles that are kept, with commas between; all without this option")
    arguments = parser.parse_args()
    archive = SpriteArchive(arguments.archive)
    styles = arguments.styles.split(",") if arguments.styles else {sprite.style for sprite in archive.sprites}
    kept = [
        number
        for number, sprite in enumerate(archive.sprites)
        if sprite.style in styles and from_the_front(sprite)
    ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / ARCHIVE_NAME
    kept = with_equal_splits(archive, kept)
    write_archive(path, copies(archive, kept, arguments.quality))
    print(f"{path}: {len(kept):,} sprites, {path.stat().st_size:,} bytes")


def from_the_front(sprite: Sprite) -> bool:
    """Return whether an image is kept: drawings, and views from the front."""
    return sprite.view is None or min(sprite.view, 360 - sprite.view) <= FRONT


def with_equal_splits(archive: SpriteArchive, kept: list[int]) -> list[int]:
    """Return the kept numbers without those that only the whole archive holds out."""
    whole = split_sprites(archive.sprites).test
    while True:
        part = split_sprites([archive.sprites[number] for number in kept]).test
        fitting = [
            number for number, held_out in zip(kept, part, strict=True) if held_out or not whole[number]
        ]
        if fitting == kept:
            return kept
        kept = fitting


def copies(archive: SpriteArchive, kept: list[int], quality: int) -> Iterator[tuple[Sprite, bytes]]:
    """Yield sprites with the smaller of their file and of a lossy one."""
    for number in kept:
        file = BytesIO()
        Image.fromarray(archive.image(number), "RGBA").save(file, "WEBP", quality=quality)
        yield archive.sprites[number], min(archive.encoded(number), file.getvalue(), key=len)


if __name__ == "__main__":
    main()
