"""Folders in GenEval's layout: written, read back, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smalti.errors import SmaltiError
from smalti.evaluation.folder import check_text, read_prompts, read_samples, write_prompts, write_sample

PROMPTS = [{"prompt": "a red circle", "tag": "any"}, {"prompt": "two stars"}]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for index, prompt in enumerate(PROMPTS):
        write_sample(tmp_path / "new" / "kept", index, prompt, [noise, Image.fromarray(noise)])
    assert (tmp_path / "new" / "kept" / "00001" / "samples" / "0001.png").exists()
    prompts, samples = read_samples(tmp_path / "new" / "kept")
    assert prompts == PROMPTS
    for images in samples:
        assert [np.array_equal(np.asarray(image), noise) for image in images] == [True, True]


def test_prompts_are_written_and_read_back(tmp_path: Path) -> None:
    write_prompts(tmp_path / "evaluation_metadata.jsonl", PROMPTS)
    assert read_prompts(tmp_path / "evaluation_metadata.jsonl") == PROMPTS


def test_transparent_images_show_white(tmp_path: Path) -> None:
    write_sample(tmp_path, 0, PROMPTS[0], [Image.new("RGBA", (4, 4), (0, 0, 0, 0))])
    image = next(read_samples(tmp_path)[1])[0]
    assert image.mode == "RGB" and image.getpixel((0, 0)) == (255, 255, 255)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(SmaltiError, match="does not exist"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(SmaltiError, match="not a folder"):
        read_samples(tmp_path / "none")
    with pytest.raises(SmaltiError, match="00000"):
        read_samples(tmp_path)
    write_sample(tmp_path, 0, PROMPTS[0], [])
    with pytest.raises(SmaltiError, match=r"samples has no \.png images"):
        read_samples(tmp_path)
    (tmp_path / "00000" / "samples" / "0000.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(SmaltiError, match=r"0000\.png is not a readable image"):
        next(read_samples(tmp_path)[1])
    (tmp_path / "00000" / "metadata.jsonl").write_text('{"prompt": 3}\n')
    with pytest.raises(SmaltiError, match=r"metadata\.jsonl line 1: prompt must be text, not 3"):
        read_samples(tmp_path)
    with pytest.raises(SmaltiError, match="must be a JSON object, not list"):
        check_text([])
    with pytest.raises(SmaltiError, match="cannot write /proc/kept"):
        write_sample("/proc/kept", 0, PROMPTS[0], [])
