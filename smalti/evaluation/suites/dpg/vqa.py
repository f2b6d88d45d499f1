"""Answers to questions about images by a model of transformers: BLIP-2, Qwen2.5-VL, or another that is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from PIL import Image

from smalti.evaluation.weights import find_weights, needed_module, readable

EXAMPLE = "Salesforce/blip2-flan-t5-xl"
"""Hub id of a model that answers."""

PROMPT = "Question: {question} Answer:"
"""Text for a model without a template of conversations."""

CHAT_PROMPT = "{question} Answer with yes or no."
"""Text for a model with one."""

MOST_TOKENS = 8
"""Most tokens of an answer."""


@dataclass(frozen=True)
class Answerer:
    """A model that answers questions about images.

    Attributes:
        network: model that generates text from an image and a text, in evaluation mode.
        processor: its processor of images and texts.
    """

    network: Any
    processor: Any

    @torch.no_grad()
    def answer(self, image: Image.Image, questions: Mapping[str, str]) -> dict[str, str]:
        """Return the answer to each question about an image: "yes", "no", or the first word of another answer.

        Args:
            image: image in RGB.
            questions: questions by number.
        """
        return {number: first_word(self._generate(image, text)) for number, text in questions.items()}

    def _generate(self, image: Image.Image, question: str) -> str:
        """Return the text that follows a question."""
        if getattr(self.processor, "chat_template", None):
            asked = [{"type": "image"}, {"type": "text", "text": CHAT_PROMPT.format(question=question)}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": asked}], add_generation_prompt=True
            )
        else:
            text = PROMPT.format(question=question)
        device = next(self.network.parameters()).device
        inputs = self.processor(images=image, text=text, return_tensors="pt").to(device)
        tokens = self.network.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
        if not _is_encoder_decoder(self.network):
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        return str(self.processor.batch_decode(tokens, skip_special_tokens=True)[0])


@cache
def load_answerer(vqa: str, device: str) -> Answerer:
    """Return a model that answers, from a folder or a hub id; on a GPU in bfloat16.

    Raises:
        SmaltiError: there is no such model, or transformers is missing.
    """
    network_class = needed_module("AutoModelForImageTextToText")
    processor_class = needed_module("AutoProcessor")
    folder = find_weights("vqa", vqa, EXAMPLE)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with readable("vqa", vqa):
        network = network_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype, trust_remote_code=False
        )
        processor = processor_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return Answerer(network.eval().to(device), processor)


def first_word(text: str) -> str:
    """Return the first word of a text in lower case.

    Example:
        >>> first_word(" Yes, it is.")
        'yes'
    """
    found = re.search(r"\w+", text.lower())
    return found[0] if found else ""


def _is_encoder_decoder(network: Any) -> bool:
    """Return whether the text model of a network is an encoder and a decoder, whose output has no question in it."""
    parts = (network.config, getattr(network.config, "text_config", None))
    return any(getattr(part, "is_encoder_decoder", False) for part in parts)
