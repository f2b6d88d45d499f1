"""The classes that answer questions, with tiny random weights, and how they are asked."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from smalti.errors import SmaltiError
from smalti.evaluation.suites.dpg import vqa


class Echo(nn.Module):
    """A decoder that repeats its input and adds one token."""

    config = SimpleNamespace(is_encoder_decoder=False)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def generate(self, input_ids: torch.Tensor, max_new_tokens: int, do_sample: bool) -> torch.Tensor:
        assert max_new_tokens == vqa.MOST_TOKENS and not do_sample
        return torch.cat([input_ids, torch.tensor([[7]])], dim=1)


class Inputs(dict[str, Any]):
    def to(self, device: object) -> Inputs:
        return self


class Chat:
    """A processor with a template of conversations."""

    chat_template = "..."

    def apply_chat_template(self, messages: list[Any], add_generation_prompt: bool) -> str:
        assert add_generation_prompt and messages[0]["content"][0] == {"type": "image"}
        return f"<{messages[0]['content'][1]['text']}>"

    def __call__(self, images: Image.Image, text: str, return_tensors: str) -> Inputs:
        assert text == "<Is it red? Answer with yes or no.>"
        return Inputs(input_ids=torch.tensor([[3, 4]]))

    def batch_decode(self, tokens: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        assert tokens.tolist() == [[7]] and skip_special_tokens
        return ["Yes."]


def test_a_conversation_is_asked_by_its_template() -> None:
    found = vqa.Answerer(Echo(), Chat()).answer(Image.new("RGB", (8, 8)), {"1": "Is it red?"})
    assert found == {"1": "yes"}


def test_the_first_word_counts() -> None:
    assert [vqa.first_word(text) for text in (" Yes, it is.", "no", "...", "2 dogs")] == [
        "yes",
        "no",
        "",
        "2",
    ]


def test_a_model_must_be_named() -> None:
    with pytest.raises(
        SmaltiError, match="transformers|vqa must be a folder with config.json or a hub id such as"
    ):
        vqa.load_answerer("", "cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # transformers warns of its own parts
@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_tiny_weights_answer(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tiny_scorers import write_tiny_answerer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = vqa.load_answerer(str(write_tiny_answerer(tmp_path / kind, kind)), "cpu")
    image = Image.effect_noise((40, 30), 90).convert("RGB")
    found = model.answer(image, {"1": "Question yes", "2": "no no no"})
    assert list(found) == ["1", "2"] and found == model.answer(image, {"1": "Question yes", "2": "no no no"})
    # The answer is what follows the question: all of the tokens of T5, and those after the input of OPT.
    inputs = model.processor(images=image, text="Question yes", return_tensors="pt")
    tokens = model.network.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    known = inputs["input_ids"].shape[1] if kind == "opt" else 1
    assert tokens.shape[1] == known + 3
    if kind == "opt":
        assert torch.equal(tokens[:, :known], inputs["input_ids"])
