"""Fields of requests: each is derived, documented and checked in one place; forms and JSON mean the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.generation.declaration import declaration
from smalti.generation.settings import GenerationSettings
from smalti.serving.errors import ApiError
from smalti.serving.fields import FIELDS, SETTINGS, from_texts, read_fields
from smalti.serving.limits import Limits
from smalti.serving.openapi import document
from smalti.serving.sizes import parse_size

ROOT = Path(__file__).parents[2]


def test_every_setting_is_a_field() -> None:
    names = [field.name for field in dataclasses.fields(GenerationSettings)]
    assert list(SETTINGS) == names
    for field in dataclasses.fields(GenerationSettings):
        assert FIELDS[field.name].kind is declaration(field).kind


def test_every_field_is_documented() -> None:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    table = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for name in FIELDS:
        assert f"`{name}`" in (table if name in SETTINGS else text), name


def test_defaults_are_valid_by_their_schema() -> None:
    properties = document("0")["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"][
        "application/json"
    ]["schema"]["properties"]
    json.dumps(properties)
    for name in SETTINGS:
        assert properties[name]["description"] == FIELDS[name].help


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ({"n": "3"}, {"n": 3}),
        ({"n": "3.5"}, {"n": 3.5}),
        ({"n": "three"}, {"n": "three"}),
        ({"temperature": "0.5"}, {"temperature": 0.5}),
        ({"temperature": "nan"}, {"temperature": "nan"}),
        ({"blend": "False"}, {"blend": False}),
        ({"blend": "maybe"}, {"blend": "maybe"}),
        ({"grow": "1,2,3,4"}, {"grow": [1, 2, 3, 4]}),
        ({"grow": "[1, 2, 3, 4]"}, {"grow": [1, 2, 3, 4]}),
        ({"guidance_interval": "0.1"}, {"guidance_interval": [0.1]}),
        ({"prompt": "3", "order": "halton"}, {"prompt": "3", "order": "halton"}),
        ({"nonsense": "3"}, {"nonsense": "3"}),
    ],
)
def test_forms_are_read_as_json(text, value) -> None:
    assert from_texts(text) == value


@settings(deadline=None, max_examples=50)  # the first rule imports PyTorch
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), st.text(max_size=20), max_size=4))
def test_a_form_is_read_or_refused(texts) -> None:
    try:
        read_fields(from_texts(texts), "generation")
    except ApiError as error:
        assert error.status == 400 and error.param in texts


def test_unknown_fields_can_be_ignored() -> None:
    with pytest.raises(ApiError) as error:
        read_fields({"prompt": "x", "steps": 3}, "generation")
    assert error.value.code == "unknown_parameter"
    values = read_fields({"prompt": "x", "steps": 3}, "generation", ignore_unknown=True)
    assert values.ignored == ["steps"] and values.given == {"prompt": "x"}
    assert read_fields({"prompt": "x", "n": None}, "generation").given == {"prompt": "x"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1024",
        "1024x",
        "x1024",
        "0x16",
        "16x16x16",
        "１６x16",
        "-16x16",
        "1e3x16",
        "16x100",
        "9999x9999",
        "8x8",
    ],
)
def test_wrong_sizes_are_refused(text) -> None:
    with pytest.raises(ApiError) as error:
        parse_size(text, Limits())
    assert error.value.param == "size"
