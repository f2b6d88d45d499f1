from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sprite_packages

from smalti.worlds.objects.preparing import record


@dataclass
class Publisher:
    """What the tests' clients hand out, and what they were asked for."""

    source: Path
    log: Path

    def calls(self) -> list[str]:
        """Return the calls since the last look, and forget them."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        return lines

    def replace(self, style: str, data: bytes) -> None:
        name = sprite_packages.specification(style).translate(str.maketrans("@/=:", "____"))
        (self.source / name).write_bytes(data)

    def withdraw(self, style: str) -> None:
        self.replace(style, b"")
        (self.source / sprite_packages.specification(style).translate(str.maketrans("@/=:", "____"))).unlink()


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """Put tiny catalogues in place of the package's, and clients that know their packages first on the PATH."""
    files = sprite_packages.published()
    sprite_packages.write_catalogs(tmp_path / "catalogs", files)
    log = sprite_packages.write_clients(tmp_path / "bin", tmp_path / "published", files)
    monkeypatch.setattr(record, "CATALOGS", tmp_path / "catalogs")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    sprite_packages.forget()
    yield Publisher(tmp_path / "published", log)
    sprite_packages.forget()
