"""One small sprite archive for all tests of this folder."""

from __future__ import annotations

import pytest
from sprites import write_sprites

from smalti.worlds.objects.archive import SpriteArchive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> SpriteArchive:
    return write_sprites(tmp_path_factory.mktemp("sprites"))
