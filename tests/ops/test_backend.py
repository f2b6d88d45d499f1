"""Which implementation of an operator is chosen, and what is said where one is missing."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.ops import backend
from smalti.ops.backend import choose_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("operator", ["gce", "sample"])
def test_backends_are_chosen_and_named(operator: str) -> None:
    triton = pytest.importorskip("triton", reason="Triton cannot be installed here: it is made for Linux")
    assert triton
    in_torch, in_triton = (import_module(f"smalti.ops.{operator}_{name}") for name in ("torch", "triton"))
    if DEVICE == "cpu" and not in_triton.INTERPRETED:
        pytest.skip("no GPU, and TRITON_INTERPRET is not 1")
    hidden = torch.zeros(2, 3, device=DEVICE)
    auto = in_torch if DEVICE == "cpu" else in_triton
    assert choose_backend(operator, "auto", hidden) is auto
    assert choose_backend(operator, "torch", hidden) is in_torch
    assert choose_backend(operator, "triton", hidden) is in_triton
    assert choose_backend(operator, "triton", hidden.double()) is in_torch
    with mock.patch.object(in_triton, "INTERPRETED", False):
        with pytest.raises(SmaltiError, match='backend "triton" needs tensors on a GPU, not cpu'):
            choose_backend(operator, "triton", hidden.cpu())
    with pytest.raises(SmaltiError, match='backend must be "auto", "torch" or "triton", not \'cuda\''):
        choose_backend(operator, "cuda", hidden)


@pytest.mark.parametrize("operator", ["gce", "sample"])
def test_missing_triton_is_said_once(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    in_torch = import_module(f"smalti.ops.{operator}_torch")
    on_gpu = SimpleNamespace(dtype=torch.float32, is_cuda=True)
    backend._warn_that_triton_is_missing.cache_clear()
    monkeypatch.setitem(sys.modules, f"smalti.ops.{operator}_triton", None)
    with pytest.warns(UserWarning, match="Triton is not installed"):
        assert choose_backend(operator, "auto", on_gpu) is in_torch
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_backend(operator, "auto", on_gpu) is in_torch
    with pytest.raises(SmaltiError, match='backend "triton" needs the package triton'):
        choose_backend(operator, "triton", on_gpu)
