"""Room on a disk, before a model is written: a disk that fills up would leave half of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.runtime.memory import gigabytes


def check_space(folder: Path, needed: int) -> None:
    """Raise SmaltiError if the disk of a folder, which may not exist yet, lacks room for so many bytes of weights."""
    existing = next(place for place in (folder, *folder.absolute().parents) if os.path.isdir(place))
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise SmaltiError(
            f"folder {quoted(str(folder))} must have room for {gigabytes(needed)} of weights, "
            f"but {gigabytes(free)} are free",
            argument="folder",
        )
