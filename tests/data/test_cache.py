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


def one_sample() -> list[dict]:
    return [{"image": torch.zeros(3, 2, 2, dtype=torch.uint8), "caption": "black"}]


@pytest.mark.parametrize("name", ["cache.json", "started.json"])
def test_what_differs_is_named(tmp_path: Path, name: str) -> None:
    build_cache(tmp_path, one_sample(), 1, lambda pixels: pixels[:, 0], {"files": "a", "data": 1})
    if name == "started.json":
        (tmp_path / "cache.json").unlink()
    with pytest.raises(SmaltiError, match="holds a cache of other images: its files and samples differ"):
        build_cache(tmp_path, one_sample(), 2, lambda pixels: pixels[:, 0], {"files": "b", "data": 1})


@pytest.mark.parametrize(
    "damage", [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x93NUMPY", "cut", "flipped"]
)
def test_damaged_caches_are_named(tmp_path: Path, damage: bytes | str) -> None:
    build_cache(tmp_path, one_sample(), 1, lambda pixels: pixels[:, 0], {})
    part = tmp_path / "part-00000.npz"
    data = part.read_bytes()
    if isinstance(damage, str):
        damage = data[: len(data) // 2] if damage == "cut" else data[:60] + bytes(20) + data[80:]
    part.write_bytes(damage)
    with pytest.raises(SmaltiError, match="part-00000.npz is missing or damaged"):
        TokenCache(tmp_path)


@pytest.mark.parametrize("text", ["{}", '{"samples": "9"}', '{"samples": true}', '{"samples": 2}', "[]"])
def test_odd_metadata_are_named(tmp_path: Path, text: str) -> None:
    build_cache(tmp_path, one_sample(), 1, lambda pixels: pixels[:, 0], {})
    (tmp_path / "cache.json").write_text(text)
    with pytest.raises(SmaltiError, match="number of samples|it holds 1 of 2 samples|JSON object"):
        TokenCache(tmp_path)


def test_a_cache_cannot_be_a_file() -> None:
    with pytest.raises(SmaltiError, match="cannot write /dev/null"):
        build_cache("/dev/null", one_sample(), 1, lambda pixels: pixels[:, 0], {})
