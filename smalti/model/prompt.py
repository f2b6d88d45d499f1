"""Prompts: from a user's words to the ids that the denoiser reads (docs/format.md, section 4)."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from smalti.common.checks import check_whole, quoted
from smalti.errors import SmaltiError
from smalti.model.text import TextTokenizer

_FIELD = re.compile(r"(\{prompt\}|\{micro\}|\{slots\})")


@dataclass(frozen=True)
class PromptTemplate:
    """The text around a prompt.

    Attributes:
        template: text with special tokens and the fields {prompt}, {slots} (the reserved slots of the
            image) and, if wanted, {micro}.
        micro_condition: text that replaces {micro}; its own fields are {height} and {width}, in pixels.
        slot_id: text id of a reserved slot.
        unconditional_id: text id that stands for a dropped prompt (`mask_token_id` of `config.json`).
        max_prompt_tokens: length of the longest user text, in text ids (`max_prompt_tokens` of `config.json`).
    """

    template: str
    micro_condition: str = ""
    slot_id: int = 18
    unconditional_id: int = 100
    max_prompt_tokens: int = 2048

    def __post_init__(self) -> None:
        for name in ("template", "micro_condition"):
            if not isinstance(getattr(self, name), str):
                raise SmaltiError(f"prompt.{name} must be text, not {quoted(getattr(self, name))}")
        fields = [part for part in _FIELD.split(self.template) if _FIELD.fullmatch(part)]
        if fields.count("{prompt}") != 1 or fields.count("{slots}") != 1:
            raise SmaltiError(
                f"prompt.template must hold {{prompt}} and {{slots}} once each: {quoted(self.template)}"
            )
        if fields.index("{slots}") < fields.index("{prompt}"):
            raise SmaltiError(
                f"prompt.template must hold {{prompt}} before {{slots}}: {quoted(self.template)}"
            )
        check_whole("prompt.slot_id", self.slot_id, 0)

    @classmethod
    def from_dict(cls, values: Any) -> PromptTemplate:
        """Read the object under "prompt" in `config.json`: template, micro_condition, slot_id."""
        if not isinstance(values, dict):
            raise SmaltiError(f"prompt must be an object, not {quoted(values)}")
        unknown = set(values) - {"template", "micro_condition", "slot_id"}
        if unknown or "template" not in values:
            raise SmaltiError(
                "prompt must hold template and may hold micro_condition and slot_id, "
                + (f"not {', '.join(sorted(unknown))}" if unknown else "but template is missing")
            )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the object under "prompt" in `config.json`."""
        return {
            "template": self.template,
            "micro_condition": self.micro_condition,
            "slot_id": self.slot_id,
        }


RELEASE_TEMPLATE = PromptTemplate(
    template=(
        "<|im_start|>system\nYou are a helpful language and vision assistant. You are able to understand the "
        "visual content that the user provides, and assist the user with a variety of tasks using natural "
        "language.<|im_end|>\n"
        "<|im_start|>user\nGenerate an image with the caption:\n {prompt} {micro}<|im_end|>\n"
        "<|im_start|>assistant\nSure <SPECIAL_21>{slots}<SPECIAL_22><|im_end|>\n"
    ),
    micro_condition="ORIGINAL WIDTH : {width}; ORIGINAL HEIGHT : {height}; TOP : 0; LEFT : 0; SCORE : 6.5",
)


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Prompts as ids, right-padded to one length. A position is the index in the sequence.

    Attributes:
        ids: (B, L) int64.
        lengths: (B,) int64, ids before the padding.
        slot_start: (B,) int64, index of the first reserved slot.
        prefix_end: (B,) int64, end of the ids that are replaced in the unconditional input.
        slots: number of reserved slots a prompt, 0 under cross-attention.
        unconditional_id: id that replaces them.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    slot_start: torch.Tensor
    prefix_end: torch.Tensor
    slots: int
    unconditional_id: int

    def __len__(self) -> int:
        return self.ids.shape[0]

    @cached_property
    def padded(self) -> bool:
        """Whether any prompt is shorter than L."""
        return bool((self.lengths < self.ids.shape[1]).any())

    @cached_property
    def common_start(self) -> int | None:
        """First index of the slots if it is the same in every prompt, else None."""
        start = int(self.slot_start[0])
        return start if bool((self.slot_start == start).all()) else None

    def _replace(self, **changes: Any) -> PromptBatch:
        return dataclasses.replace(self, **changes)

    def drop(self, mask: torch.Tensor) -> PromptBatch:
        """Return the batch with the prompts of the rows in `mask`, (B,) bool, made unconditional."""
        before_end = torch.arange(self.ids.shape[1], device=self.ids.device) < self.prefix_end[:, None]
        replaced = before_end & mask.to(self.ids.device)[:, None]
        return self._replace(ids=self.ids.masked_fill(replaced, self.unconditional_id))

    def unconditional(self) -> PromptBatch:
        """Return the batch with every prompt made unconditional."""
        return self.drop(torch.ones(len(self), dtype=torch.bool, device=self.ids.device))

    def to(self, device: torch.device | str) -> PromptBatch:
        """Return the batch on another device."""
        moved = self._replace(**{name: getattr(self, name).to(device) for name in _TENSORS})
        # Known already: computing them on the device would make the host wait for it.
        moved.__dict__.update(padded=self.padded, common_start=self.common_start)
        return moved

    def select(self, indices: torch.Tensor | list[int]) -> PromptBatch:
        """Return the prompts at `indices`, in that order, padded to the longest of them only."""
        indices = torch.as_tensor(indices, device=self.ids.device)
        chosen = {name: getattr(self, name)[indices] for name in _TENSORS}
        return self._replace(**{**chosen, "ids": chosen["ids"][:, : int(chosen["lengths"].max())]})

    def repeat_interleave(self, count: int) -> PromptBatch:
        """Return every prompt `count` times in a row."""
        return self._replace(**{name: getattr(self, name).repeat_interleave(count, 0) for name in _TENSORS})

    @staticmethod
    def cat(first: PromptBatch, second: PromptBatch) -> PromptBatch:
        """Join two batches, padded to the longer.

        Raises:
            SmaltiError: the batches reserve different numbers of slots.
        """
        if first.slots != second.slots:
            raise SmaltiError(
                f"prompts must reserve the same number of slots, not {first.slots} and {second.slots}"
            )
        length = max(first.ids.shape[1], second.ids.shape[1])
        ids = [
            torch.nn.functional.pad(batch.ids, (0, length - batch.ids.shape[1])) for batch in (first, second)
        ]
        rest = {name: torch.cat([getattr(first, name), getattr(second, name)]) for name in _TENSORS[1:]}
        return first._replace(ids=torch.cat(ids), **rest)


_TENSORS = ("ids", "lengths", "slot_start", "prefix_end")


def build_prompts(
    prompts: list[str],
    template: PromptTemplate,
    tokenizer: TextTokenizer,
    *,
    height: int,
    width: int,
    slots: int,
    name: str = "prompt",
) -> PromptBatch:
    """Wrap prompts in a template and encode them.

    Args:
        prompts: B texts.
        template: the model's template (`config.prompt`).
        tokenizer: the model's text tokenizer.
        height: height of the image in pixels, for the micro-condition.
        width: width of the image in pixels.
        slots: number of reserved slots a prompt (`config.slots(h, w)`).
        name: name of the argument that holds the prompts, for errors.

    Raises:
        SmaltiError: no prompt, one that is not text or is blank or too long, or a template that does not suit
            the tokenizer.
    """
    if isinstance(prompts, str) or not isinstance(prompts, list | tuple) or not prompts:
        raise SmaltiError(f"prompts must be a list of at least one text, not {quoted(prompts)}")
    micro = template.micro_condition.replace("{height}", str(height)).replace("{width}", str(width))
    # Fields are replaced after the template is cut at its special tokens, so that nothing in a prompt is parsed.
    pieces = [(_FIELD.split(text), special) for text, special in tokenizer.split(template.template)]
    encoded: list[tuple[list[int], int, int]] = []
    for prompt in prompts:
        _check_prompt(name, prompt, template.max_prompt_tokens, tokenizer)
        values = {"{prompt}": prompt, "{micro}": micro}
        ids: list[int] = []
        slot_start = prefix_end = 0
        prompt_seen = False
        for parts, special in pieces:
            if special is not None:
                ids.append(special)
                # The user's turn ends with the first special token after the prompt.
                prefix_end = prefix_end or (len(ids) if prompt_seen else 0)
                continue
            prompt_seen = prompt_seen or "{prompt}" in parts
            before = parts[: parts.index("{slots}")] if "{slots}" in parts else parts
            ids += tokenizer.encode("".join(values.get(part, part) for part in before))
            if "{slots}" in parts:
                slot_start = len(ids)
                prefix_end = prefix_end or slot_start
                ids += [template.slot_id] * slots
                after = parts[parts.index("{slots}") + 1 :]
                ids += tokenizer.encode("".join(values.get(part, part) for part in after))
        encoded.append((ids, slot_start, prefix_end))
    length = max(len(ids) for ids, _, _ in encoded)
    return PromptBatch(
        ids=torch.tensor([ids + [0] * (length - len(ids)) for ids, _, _ in encoded], device="cpu"),
        lengths=torch.tensor([len(ids) for ids, _, _ in encoded], device="cpu"),
        slot_start=torch.tensor([start for _, start, _ in encoded], device="cpu"),
        prefix_end=torch.tensor([end for _, _, end in encoded], device="cpu"),
        slots=slots,
        unconditional_id=template.unconditional_id,
    )


def _check_prompt(name: str, prompt: Any, most: int, tokenizer: TextTokenizer) -> None:
    """Raise SmaltiError unless a text can be a prompt of at most `most` ids; `name` is its argument's."""
    if not isinstance(prompt, str):
        raise SmaltiError(f"{name} must be text, not {type(prompt).__name__}", argument=name)
    if not prompt.strip():
        raise SmaltiError(f"{name} must not be empty", argument=name)
    # Encoding megabytes of text takes seconds and a gigabyte.
    if len(prompt) > most * tokenizer.longest:
        raise SmaltiError(
            f"{name} must be at most {most} text tokens long, not {len(prompt)} characters", argument=name
        )
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # lone surrogates, which stand for bytes that are not UTF-8
        raise SmaltiError(f"{name} must be valid Unicode: {error.reason}", argument=name) from error
    count = len(tokenizer.encode(prompt))
    if count > most:
        raise SmaltiError(f"{name} must be at most {most} text tokens long, not {count}", argument=name)
