"""Prompts rewritten before they are drawn: by a file, by a command, or by a language model of transformers.

Images are drawn from the rewritten text and scored by the prompt itself.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from smalti.common.checks import quoted
from smalti.common.files import read_json_lines
from smalti.errors import SmaltiError
from smalti.evaluation.ranks import gather, own_device, share
from smalti.evaluation.weights import find_weights, needed_module, readable, revision_of
from smalti.training.distribution import first_alone

EXAMPLE = "Qwen/Qwen2.5-7B-Instruct"
"""Hub id of a language model that rewrites."""

INSTRUCTION = (
    "Rewrite this prompt for an image generator in one detailed sentence. Keep every object, number, colour and "
    "position. Answer with the sentence alone.\n\n{prompt}"
)
"""Text with which a language model is asked."""

MOST_TOKENS = 256
_SECONDS = 600


def rewrite(how: str, prompts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return prompts with a rewritten text under "rewritten"; several processes share the work.

    Args:
        how: a file of JSON lines with "prompt" and "rewritten"; `command:COMMAND`, which reads a prompt on standard
            input and prints the text; or `model:FOLDER_OR_HUB_ID`.
        prompts: prompts of a benchmark.

    Raises:
        SmaltiError: the file lacks a prompt, the command fails, or there is no such model.

    Example:
        >>> rewrite("command:tr a-z A-Z", [{"prompt": "a cat"}])
        [{'prompt': 'a cat', 'rewritten': 'A CAT'}]
    """
    with first_alone():  # a model on the hub is fetched once
        function = _writer(how)
    own = [(index, function(prompts[index]["prompt"])) for index in share(len(prompts))]
    return [{**prompt, "rewritten": text} for prompt, text in zip(prompts, gather(own), strict=True)]


def describe_rewriting(how: str, prompts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a report says about rewritten prompts: how, with which weights, and a hash of the texts."""
    texts = json.dumps([prompt["rewritten"] for prompt in prompts]).encode()
    found: dict[str, Any] = {"how": how, "texts_sha256": hashlib.sha256(texts).hexdigest()}
    if how.startswith("model:"):
        name = how.removeprefix("model:")
        found |= {"instruction": INSTRUCTION, "most_tokens": MOST_TOKENS}
        found["revision"] = revision_of(name, find_weights("--rewrite", name, EXAMPLE))
    return found


def _writer(how: str) -> Callable[[str], str]:
    """Return a function from a prompt to its rewritten text."""
    if how.startswith("command:"):
        command = shlex.split(how.removeprefix("command:"))
        return lambda text: _run(command, text)
    if how.startswith("model:"):
        model = _load(how.removeprefix("model:"), own_device("cuda" if torch.cuda.is_available() else "cpu"))
        return lambda text: _generate(model, text)
    table = _table(Path(how))

    def look_up(text: str) -> str:
        if text not in table:
            raise SmaltiError(
                f"--rewrite {how} has no line for the prompt {quoted(text)}", argument="--rewrite"
            )
        return table[text]

    return look_up


def _table(path: Path) -> dict[str, str]:
    """Return the rewritten texts of a file by their prompts."""
    found: dict[str, str] = {}
    for number, line in read_json_lines(path):
        texts: list[Any] = (
            [line.get(name) for name in ("prompt", "rewritten")] if isinstance(line, dict) else []
        )
        if len(texts) != 2 or not all(isinstance(text, str) and text.strip() for text in texts):
            raise SmaltiError(
                f"{path} line {number}: a line must have texts under prompt and rewritten",
                argument="--rewrite",
            )
        found[texts[0]] = texts[1]
    return found


def _run(command: list[str], text: str) -> str:
    """Return what a command prints when it reads a text."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, IndexError, ValueError, subprocess.SubprocessError) as error:
        raise SmaltiError(f"--rewrite command cannot be run: {error}", argument="--rewrite") from error
    if not done.stdout.strip():
        raise SmaltiError(f"--rewrite command printed nothing for {quoted(text)}", argument="--rewrite")
    return done.stdout.strip()


@cache
def _load(name: str, device: str) -> tuple[Any, Any]:
    """Return a language model and its tokenizer; on a GPU in bfloat16."""
    network_class, tokenizer_class = needed_module("AutoModelForCausalLM"), needed_module("AutoTokenizer")
    folder = find_weights("--rewrite", name, EXAMPLE)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with readable("--rewrite", name):
        network = network_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=dtype, trust_remote_code=False
        )
        tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return network.eval().to(device), tokenizer


@torch.no_grad()
def _generate(model: tuple[Any, Any], text: str) -> str:
    """Return a language model's greedy answer to the instruction."""
    network, tokenizer = model
    asked = INSTRUCTION.format(prompt=text)
    if getattr(tokenizer, "chat_template", None):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
        )
    inputs = tokenizer(asked, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
    ids = inputs["input_ids"].to(next(network.parameters()).device)
    tokens = network.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=MOST_TOKENS, do_sample=False
    )
    answer = str(tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)).strip()
    return answer or text
