"""The real classes of CLIP, ImageReward and HPSv3, with tiny random weights."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # transformers warns of its own parts
]

from tiny_scorers import write_tiny_clip, write_tiny_hpsv3, write_tiny_reward  # noqa: E402

from smalti.errors import SmaltiError  # noqa: E402
from smalti.evaluation.folder import write_sample  # noqa: E402
from smalti.evaluation.request import Request  # noqa: E402
from smalti.evaluation.run import evaluate  # noqa: E402
from smalti.evaluation.suite import find_suite  # noqa: E402
from smalti.evaluation.suites.preference import imagereward, qwen  # noqa: E402
from smalti.evaluation.suites.preference.instruction import INSTRUCTION, REWARD, REWARD_TOKEN  # noqa: E402

IMAGE = Image.effect_noise((48, 32), 90).convert("RGB")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_tiny_clip(folder / "clip")
        write_tiny_reward(folder / "reward")
        write_tiny_hpsv3(folder)
    return folder


def test_clip_scores_are_those_of_its_logits(place: Path) -> None:
    from transformers import CLIPModel

    from smalti.evaluation.clip import load_clip, prepare, prepare_whole

    clip = load_clip("clip", str(place / "clip"), "cpu", "")
    model = CLIPModel.from_pretrained(place / "clip").eval()
    ids = torch.tensor([clip.tokenizer.encode("a red dog").ids])
    cosines = {}
    for prepared in (prepare, prepare_whole):
        with torch.no_grad():
            output = model(input_ids=ids, pixel_values=prepared(IMAGE, 32)[None])
        cosines[prepared] = float((output.image_embeds @ output.text_embeds.T)[0, 0])
    for name, expected in (
        ("clip-score", max(100 * cosines[prepare], 0)),
        ("pickscore", math.exp(model.logit_scale.item()) * cosines[prepare]),
        ("hpsv2", 100 * cosines[prepare_whole]),
    ):
        suite = find_suite(f"{name}:clip={place / 'clip'}")
        assert suite.rate("a red dog", [IMAGE, IMAGE])[1] == pytest.approx(expected, abs=1e-4)
        assert suite.describe()["clip_revision"] == "folder"
    # A text that is too long is cut and keeps the mark of its end.
    long = clip.tokenizer.encode("red " * 90).ids
    assert len(long) == 16 and long[-1] == 63


def test_imagereward_reads_image_and_text(place: Path) -> None:
    suite = find_suite(f"imagereward:weights={place / 'reward'}")
    blip = imagereward.load_blip(str(place / "reward"), "cpu")
    one, two = suite.rate("a red cat", [IMAGE, Image.new("RGB", (48, 32), "red")])
    assert one != two and one != suite.rate("a blue dog", [IMAGE])[0]
    assert [type(layer).__name__ for layer in blip.head] == ["Linear", "Linear"]
    # Padding that is masked changes nothing, as in the published package.
    ids = torch.tensor([blip.tokenizer.encode("a red cat").ids + [0] * 20])
    mask = torch.tensor([[1, 1, 1] + [0] * 20])
    pixels = imagereward.prepare(IMAGE, 32)[None]
    with torch.no_grad():
        seen = blip.vision(pixel_values=pixels).last_hidden_state
        hidden = blip.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen).last_hidden_state
        value = (float(blip.head(hidden[:, 0])) - imagereward.MEAN) / imagereward.DEVIATION
    assert one == pytest.approx(value, abs=1e-5)


def test_hpsv3_reads_at_the_reward_token(place: Path) -> None:
    from transformers import Qwen2VLImageProcessorPil

    scorer = qwen.load_qwen(str(place / "weights"), str(place / "base"), "cpu")
    suite = find_suite(f"hpsv3:weights={place / 'weights'},base={place / 'base'}")
    found = scorer.rate(text="a red cat", image=IMAGE)
    assert len(found) == 2 and suite.rate("a red cat", [IMAGE]) == [found[0]]
    assert [type(layer).__name__ for layer in scorer.head] == ["Linear", "ReLU", "Linear"]
    # The same by transformers' own patches, and with the whole text written out.
    size = {"shortest_edge": qwen.PIXELS, "longest_edge": qwen.PIXELS}
    inputs = Qwen2VLImageProcessorPil(size=size)(images=[IMAGE], return_tensors="pt")
    patches, grid = qwen.cut_patches(IMAGE, 14, 2)
    assert torch.equal(patches, inputs["pixel_values"]) and list(grid) == inputs["image_grid_thw"][0].tolist()
    asked = INSTRUCTION.format(text_prompt="a red cat") + REWARD
    text = qwen.CONVERSATION.format(image="<|image_pad|>" * (grid[1] * grid[2] // 4), text=asked)
    ids = scorer.tokenizer.encode(text).ids
    assert ids.count(scorer.tokenizer.token_to_id(REWARD_TOKEN)) == 1 and max(ids) == 45
    assert found != scorer.rate(text="a blue dog", image=IMAGE)
    assert found != scorer.rate(text="a red cat", image=Image.new("RGB", (48, 32), "red"))
    with pytest.raises(SmaltiError, match=r"prompt must not hold <\|Reward\|>"):
        scorer.rate(text=f"a {REWARD_TOKEN} cat", image=IMAGE)


def test_a_language_model_rewrites(tmp_path: Path) -> None:
    from tiny_scorers import write_tiny_writer

    from smalti.evaluation.rewriting import describe_rewriting, rewrite

    how = f"model:{write_tiny_writer(tmp_path / 'writer')}"
    found = rewrite(how, [{"prompt": "a red cat"}, {"prompt": "a blue dog"}])
    assert [one["prompt"] for one in found] == ["a red cat", "a blue dog"] and found[0]["rewritten"]
    told = describe_rewriting(how, found)
    assert told["revision"] == "folder" and told["how"] == how and len(told["texts_sha256"]) == 64


def test_a_folder_is_scored_apart(place: Path, tmp_path: Path) -> None:
    for index, style in enumerate(("anime", "photo")):
        write_sample(tmp_path / "drawn", index, {"prompt": "a red cat", "category": style}, [IMAGE] * 2)
    found = evaluate(find_suite(f"hpsv2:clip={place / 'clip'}"), Request(folder=tmp_path / "drawn"))
    assert found.scores["images"] == 4 and list(found.scores["categories"]) == ["anime", "photo"]
    assert found.scores["categories"]["photo"]["deviation_of_groups"] == 0
    assert found.metadata["scorer"]["resize"].startswith("longer side")
    json.dumps(found.scores | found.metadata)


def test_weights_that_do_not_fit_are_one_line(place: Path) -> None:
    with pytest.raises(SmaltiError, match="weights .* cannot be read: weights must have a head"):
        imagereward.load_blip(str(place / "clip"), "cpu")
    with pytest.raises(SmaltiError, match="base must be a folder with config.json or a hub id such as Qwen"):
        qwen.load_qwen(str(place / "weights"), "", "cpu")
