"""The real classes of the HF detector and of CLIP, with tiny random weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # transformers warns of its own parts
]

from tiny_scorers import write_tiny_clip, write_tiny_detector  # noqa: E402

from smalti.errors import SmaltiError  # noqa: E402
from smalti.evaluation.folder import write_sample  # noqa: E402
from smalti.evaluation.request import Request  # noqa: E402
from smalti.evaluation.run import evaluate  # noqa: E402
from smalti.evaluation.suite import find_suite  # noqa: E402
from smalti.evaluation.suites.geneval import colors, detector  # noqa: E402
from smalti.evaluation.suites.geneval.rules import CLASSES, COLORS, Found  # noqa: E402


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("scorers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return write_tiny_detector(place / "detector"), write_tiny_clip(place / "clip")


def test_the_detector_is_its_network(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    found = detector.load_detector(str(folders[0]), "cpu")
    assert found.names == CLASSES
    # Random weights are sure of nothing: with no threshold every instance is there.
    monkeypatch.setattr(detector, "THRESHOLD", 0.0)
    image = Image.effect_noise((96, 64), 90).convert("RGB")
    items = [item for items in found.detect(image).values() for item in items]
    assert items and all(item.mask is not None and item.mask.shape == (64, 96) for item in items)
    # transformers' own post-processing has the same scores for the same queries, at its own size of masks.
    pixels, _ = detector.prepare(image)
    with torch.no_grad():
        output = found.network(pixel_values=pixels[None])
    shares = output.class_queries_logits[0].softmax(-1)[:, :-1]
    assert max(item.score for item in items) <= float(shares.max())


def test_colours_are_clips(folders: tuple[Path, Path]) -> None:
    from transformers import CLIPModel

    reader = colors.load_colors(str(folders[1]), "cpu")
    image = Image.effect_noise((64, 48), 90).convert("RGB")
    box = Found((4, 4, 44, 40), 0.9)
    names = reader.name(image, [box, Found((0, 0, 30, 20), 0.9)], "dog")
    assert len(names) == 2 and set(names) <= set(COLORS)
    # The same by CLIP's own logits, one template after the other.
    model = CLIPModel.from_pretrained(folders[1]).eval()
    pixels = colors.prepare(colors.crop(image, box), 32)[None]
    rows = []
    for color in COLORS:
        texts = [template.format(color=color, name="dog") for template in colors.TEMPLATES]
        embeds = []
        for text in texts:
            ids = torch.tensor([reader.clip.tokenizer.encode(text).ids])
            with torch.no_grad():
                output = model(input_ids=ids, pixel_values=pixels)
            embeds.append(output.text_embeds[0])
        rows.append(F.normalize(torch.stack(embeds).mean(dim=0), dim=0))
    logits = output.image_embeds @ torch.stack(rows).T
    assert names[0] == COLORS[int(logits.argmax())]


def test_a_run_with_tiny_weights(folders: tuple[Path, Path], tmp_path: Path) -> None:
    prompt = {
        "tag": "colors",
        "include": [{"class": "dog", "count": 1, "color": "red"}],
        "prompt": "a red dog",
    }
    write_sample(tmp_path / "drawn", 0, prompt, [Image.new("RGB", (64, 64), "red")] * 2)
    suite = find_suite(f"geneval:detector={folders[0]},clip={folders[1]}")
    found = evaluate(suite, Request(folder=tmp_path / "drawn"))
    assert found.scores["colors"] == 0 and found.scores["images"] == 2
    assert found.metadata["packages"]["transformers"]
    with pytest.raises(SmaltiError, match="class must be one that the detector knows, not 'axolotl'"):
        suite.score({"tag": "colors", "include": [{"class": "axolotl", "count": 1}]}, [])


def test_what_is_no_detector_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(
        SmaltiError, match="detector must be a folder with config.json or a hub id such as facebook"
    ):
        find_suite("geneval").score({"tag": "colors", "include": []}, [])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SmaltiError, match="cannot be read"):
        detector.load_detector(str(tmp_path), "cpu")
