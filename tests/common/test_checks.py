"""Checks of arguments: what a number is, and how a value stands in a message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smalti.common.checks import (
    check_choice,
    check_flag,
    check_pair,
    check_path,
    check_real,
    check_seed,
    check_whole,
    quoted,
)
from smalti.data.folder import ImageFolder
from smalti.errors import SmaltiError
from smalti.storage.folder import load_config
from smalti.worlds.arguments import check_weights


@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), 3])
def test_whole_numbers_of_any_library(value):
    number = check_whole("steps", value)
    assert number == 3 and type(number) is int


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5), 0.5])
def test_real_numbers_of_any_library(value):
    number = check_real("share", value, 0, 1)
    assert number == 0.5 and type(number) is float


def test_pairs_of_any_library():
    assert check_pair("interval", np.array([0.25, 0.5])) == (0.25, 0.5)
    assert check_pair("interval", (np.float64(0.25), np.int64(1))) == (0.25, 1)


@pytest.mark.parametrize("value", [True, np.bool_(True), np.array([3]), "3", None, 3.0, np.float64(3)])
def test_what_is_no_whole_number(value):
    with pytest.raises(SmaltiError, match="^steps must be a whole number of at least 1, not"):
        check_whole("steps", value)


def test_whole_numbers_have_64_bits():
    assert check_whole("steps", 2**63 - 1) == 2**63 - 1
    for value in (2**63, 10**400):
        with pytest.raises(
            SmaltiError, match="^steps must be a whole number of at least 1 and below 2⁶³, not"
        ):
            check_whole("steps", value)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), "1", True, [1]])
def test_what_is_no_real_number(value):
    with pytest.raises(SmaltiError, match="^share must be a finite number") as caught:
        check_real("share", value)
    assert len(str(caught.value)) < 200


def test_seeds_have_63_bits():
    assert check_seed(2**63 - 1) == 2**63 - 1 and check_seed(np.int64(5)) == 5
    for seed in (-1, 2**63, 1.5, "0", True, None):
        with pytest.raises(SmaltiError, match="--seed must be a whole number from 0 to 9223372036854775807"):
            check_seed(seed, "--seed")


def test_a_choice_is_text():
    for value in (["a"], np.array(["a", "b"]), 3, None, {}):
        with pytest.raises(SmaltiError, match="^name must be 'a' or 'b'"):
            check_choice("name", value, ("a", "b"))


def test_long_values_are_cut():
    for value in (
        "x" * 5000,
        list(range(5000)),
        10**5000,
        10**400,
        np.zeros((99, 99)),
        "\n" * 5000,
        b"x" * 99,
    ):
        assert len(quoted(value)) <= 80 and "\n" not in quoted(value)
    assert quoted("short") == "'short'"


@pytest.mark.parametrize("value", [5, None, b"a", ["a"], 1 + 2j])
def test_a_path_is_a_text_or_a_path(value: Any) -> None:
    with pytest.raises(SmaltiError, match="^path must be the name of a file or a folder, not "):
        check_path("path", value)
    with pytest.raises(SmaltiError, match="^path must be the name of a file or a folder, not "):
        ImageFolder(value, 32)
    with pytest.raises(SmaltiError, match="^model folder must be the name of a file or a folder, not "):
        load_config(value)
    assert check_path("path", "a") == check_path("path", Path("a")) == Path("a")


@pytest.mark.parametrize("value", [1, None, "true", torch.ones(2, dtype=torch.bool)])
def test_a_flag_is_true_or_false(value: Any) -> None:
    with pytest.raises(SmaltiError, match="^blend must be True or False, not "):
        check_flag("blend", value)
    assert check_flag("blend", np.bool_(True)) is True


@pytest.mark.parametrize(
    "weights", [5, {1, 2}, {"a": 1e308, "b": 1e308}, {"a": float("nan")}, {"a": "1"}, {}, {"c": 1}]
)
def test_weights_are_a_dictionary_with_a_finite_sum(weights: Any) -> None:
    with pytest.raises(SmaltiError, match=r"^mix must weight some of \['a', 'b'\] with 0 or more, not "):
        check_weights("mix", weights, ["a", "b"])
