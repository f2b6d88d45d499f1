"""Token caches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smalti.data.cache import TokenCache, build_cache
from smalti.errors import SmaltiError


def test_cache_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smalti.data.cache._PART", 4)
    drawn: list[int] = []

    def samples(fail_at: int | None = None):  # noqa: ANN202
        for index in range(100):
            if index == fail_at:
                raise KeyboardInterrupt
            drawn.append(index)
            yield {"image": torch.full((3, 2, 2), index, dtype=torch.uint8), "caption": f"picture {index}"}

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        return pixels[:, 0].long()

    with pytest.raises(KeyboardInterrupt):
        build_cache(tmp_path, samples(fail_at=6), 10, encode, {"data": 1}, batch_size=3)
    with pytest.raises(SmaltiError, match="cache.json does not exist"):
        TokenCache(tmp_path)
    cache = build_cache(tmp_path, samples(), 10, encode, {"data": 1}, batch_size=3)
    assert [sample["caption"] for sample in (cache[i] for i in range(10))] == [
        f"picture {i}" for i in range(10)
    ]
    assert cache.tokens.dtype == torch.int32 and cache.tokens[:, 0, 0].tolist() == list(range(10))
    (tmp_path / "part-00001.npz").write_bytes(b"broken")
    with pytest.raises(SmaltiError, match="part-00001.npz is missing or damaged"):
        TokenCache(tmp_path)
