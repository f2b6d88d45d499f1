"""Prompts: templates, special tokens that a user cannot write, batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SHORT, golden_tokenizer

from smalti.errors import SmaltiError
from smalti.model.prompt import (
    RELEASE_TEMPLATE,
    PromptBatch,
    PromptTemplate,
    build_prompts,
)

SPECIAL = set(golden_tokenizer().special.values())


def build(texts, template=SHORT, slots=4, height=64, width=96):
    return build_prompts(texts, template, golden_tokenizer(), height=height, width=width, slots=slots)


def test_release_template_is_the_string_of_the_specification():
    """Encoded piece by piece, but the text is docs/format.md, section 4's; golden has no merges, so a byte is an id."""
    batch = build(["a cat"], RELEASE_TEMPLATE, slots=6, height=512, width=768)
    ids = batch.ids[0].tolist()
    text = RELEASE_TEMPLATE.template.replace("{prompt}", "a cat").replace("{slots}", "<SPECIAL_18>" * 6)
    micro = "ORIGINAL WIDTH : 768; ORIGINAL HEIGHT : 512; TOP : 0; LEFT : 0; SCORE : 6.5"
    expected = []
    for piece, special in golden_tokenizer().split(text.replace("{micro}", micro)):
        expected += [special] if special is not None else golden_tokenizer().encode(piece)
    assert ids == expected
    start = int(batch.slot_start[0])
    assert ids[start - 1] == 21 and ids[start : start + 7] == [18] * 6 + [22]
    assert ids[int(batch.prefix_end[0]) - 1] == 11 and ids[: int(batch.prefix_end[0])].count(11) == 2


@pytest.mark.parametrize(
    "nasty", ["<|im_end|>", "<SPECIAL_18> x", "<unk><s>", "{slots}{prompt}{micro}", "a\0b"]
)
def test_a_users_text_is_never_parsed(nasty):
    for template in (SHORT, RELEASE_TEMPLATE):
        batch, plain = build([nasty], template), build(["word"], template)
        special = [token for token in batch.ids[0].tolist() if token in SPECIAL]
        assert special == [token for token in plain.ids[0].tolist() if token in SPECIAL]
    assert bytes_of(build([nasty])) == nasty


def bytes_of(batch):
    """The text before the first special token; the inverse of byte-level encoding without merges."""
    ids = batch.ids[0, : int(batch.slot_start[0]) - 1].tolist()
    return golden_tokenizer()._plain.decode(ids)


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1))
def test_any_text_survives_and_yields_no_special_token(text):
    ids = golden_tokenizer().encode(text)
    assert not SPECIAL & set(ids)
    assert golden_tokenizer()._plain.decode(ids) == text


def test_batches_are_padded_on_the_right():
    texts = ["cat", "a much longer prompt", "dogs"]
    batch = build(texts)
    assert batch.padded and batch.common_start is None
    for index, text in enumerate(texts):
        alone = build([text])
        length = int(batch.lengths[index])
        assert not alone.padded and alone.ids.shape[1] == length
        assert torch.equal(alone.ids[0], batch.ids[index, :length])
        assert batch.slot_start[index] == alone.slot_start[0]
        picked = batch.select([index])
        assert torch.equal(picked.ids, alone.ids), "a selection is padded to its own longest"


def test_dropping_replaces_the_users_turn_only():
    batch = build(["cat", "a horse"], RELEASE_TEMPLATE)
    none = batch.drop(torch.tensor([False, False]))
    assert torch.equal(none.ids, batch.ids)
    one = batch.drop(torch.tensor([False, True]))
    assert torch.equal(one.ids[0], batch.ids[0])
    end = int(batch.prefix_end[1])
    assert one.ids[1, :end].tolist() == [100] * end
    assert torch.equal(one.ids[1, end:], batch.ids[1, end:])
    assert torch.equal(batch.unconditional().ids, batch.drop(torch.tensor([True, True])).ids)


def test_unconditional_prompts_of_one_length_are_equal():
    batch = build(["cat", "dog"]).unconditional()
    assert torch.equal(batch.ids[0], batch.ids[1])
    assert batch.ids[0].tolist() == [100] * 4 + [18] * 4


def test_batches_are_repeated_selected_and_joined():
    batch = build(["cat", "a horse"])
    doubled = batch.repeat_interleave(2)
    assert len(doubled) == 4 and torch.equal(doubled.ids[0], doubled.ids[1])
    joined = PromptBatch.cat(build(["cat"]), build(["a horse"]))
    for field in ("ids", "lengths", "slot_start", "prefix_end"):
        assert torch.equal(getattr(joined, field), getattr(batch, field))
    assert batch.to("cpu").ids.device.type == "cpu"
    with pytest.raises(SmaltiError, match="same number of slots, not 4 and 6"):
        PromptBatch.cat(build(["cat"]), build(["cat"], slots=6))


def test_templates_end_the_prompt_where_they_can():
    """The unconditional input keeps what follows the user's turn; without a special token, the slots."""
    bare = build(["cat"], PromptTemplate("{prompt}{slots}"))
    assert bare.prefix_end.tolist() == bare.slot_start.tolist() == [3]
    wrapped = build(["cat"], PromptTemplate("<s>{prompt}<SPECIAL_21> is {slots}<SPECIAL_22>!"))
    assert wrapped.prefix_end.tolist() == [5] and wrapped.slot_start.tolist() == [9]
    assert wrapped.ids[0, -1] not in SPECIAL


def test_without_slots_there_are_none():
    batch = build(["cat"], slots=0)
    assert batch.ids[0].tolist()[-1] == 11 and int(batch.lengths[0]) == 4


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([""], "prompt must not be empty"),
        (["cat", " \n\t"], "prompt must not be empty"),
        ([None], "prompt must be text, not NoneType"),
        ([b"cat"], "prompt must be text, not bytes"),
        ([], "prompts must be a list of at least one text"),
        ("cat", "prompts must be a list"),
        (["x" * 21], "prompt must be at most 20 text tokens long, not 21"),
        (["\ud800"], "prompt must be valid Unicode"),
    ],
)
def test_bad_prompts_are_named(prompts, message):
    template = PromptTemplate("{prompt}<|im_end|>{slots}", max_prompt_tokens=20)
    with pytest.raises(SmaltiError, match=message) as caught:
        build(prompts, template)
    assert "\n" not in str(caught.value)


def test_a_template_cannot_name_tokens_that_the_tokenizer_lacks():
    with pytest.raises(SmaltiError, match=r"names <\|vision_start\|>, which tokenizer.json lacks"):
        build(["cat"], PromptTemplate("{prompt}<|vision_start|>{slots}"))
