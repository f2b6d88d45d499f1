"""The sampling operator's Triton kernel against the definition: on a GPU, else in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_definition import check, problems

from smalti.ops import sample_torch
from smalti.ops.sample import sample_tokens

pytest.importorskip("triton", reason="Triton cannot be installed here: it is made for Linux")

from smalti.ops import sample_triton  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and not sample_triton.INTERPRETED, reason="no GPU, and TRITON_INTERPRET is not 1"
)


@settings(max_examples=15, deadline=None)
@given(problems(), st.sampled_from([8, 32, 4096]))
def test_choices_match_the_definition(problem: dict, tile: int) -> None:
    with mock.patch.object(sample_triton, "_TILE", tile):
        check(problem, "triton", DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_one_row_is_computed_as_among_others_and_as_pytorch_does(
    dtype: torch.dtype, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(6, 211, generator=generator) * 3).to(dtype)
    logits[:, 200:] = -torch.inf
    logits[5, :100] = -torch.inf
    # Whatever rounding does, the last uniform number picks a token that has weight.
    uniform = torch.tensor([0.0, 0.3, 0.5, 0.9, 0.999, 1.0])
    current = torch.tensor([0, 5, 199, 200, -1, 211])
    arguments = [part.to(DEVICE) for part in (logits, uniform, current)]
    coldness = 1 / temperature
    with mock.patch.object(sample_triton, "_TILE", 32):
        whole = sample_triton.choose_tokens(arguments[0], arguments[1], coldness, arguments[2])
        assert torch.equal(arguments[0].cpu(), logits)
        for row in range(6):
            z, u, token = (part[row : row + 1] for part in arguments)
            alone = sample_triton.choose_tokens(z, u, coldness, token)
            assert all(torch.equal(a, b[row : row + 1]) for a, b in zip(alone, whole, strict=True))
    expected = sample_torch.choose_tokens(logits.clone(), uniform, coldness, current)
    assert torch.equal(whole[0].cpu(), expected[0])
    for found, wanted in zip(whole[1:], expected[1:], strict=True):
        torch.testing.assert_close(found.cpu(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24, 1.0])
def test_the_ends_of_the_unit_interval_never_pick_what_is_left_out(u: float) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(6, 8, generator=generator).to(DEVICE)
    head = torch.randn(100, 8, generator=generator).to(DEVICE)
    uniform = torch.full((6,), u, device=DEVICE)
    with mock.patch.object(sample_triton, "_TILE", 16):
        for temperature in (1.0, 0.1):
            choice = sample_tokens(hidden, head, uniform, top_k=3, temperature=temperature, backend="triton")
            assert bool((choice.probability > 0).all())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_extreme_logits_stay_finite_and_nan_stays_nan(backend: str) -> None:
    head = torch.eye(3, device=DEVICE) * 1e4
    half, current = torch.full((3,), 0.5, device=DEVICE), torch.tensor([1, 1, 7], device=DEVICE)
    for temperature in (1.0, 1e-40, 1e300):
        choice = sample_tokens(
            torch.eye(3, device=DEVICE),
            head,
            half,
            temperature=temperature,
            current_tokens=current,
            backend=backend,
        )
        assert choice.entropy.tolist() == [0, 0, 0] and choice.current_probability.tolist() == [0, 1, 0]
        if temperature < 1e300:
            assert choice.candidate.tolist() == [0, 1, 2] and choice.probability.tolist() == [1, 1, 1]
        else:
            assert choice.candidate.tolist() == [1, 1, 1] and choice.probability.tolist() == [0, 1, 0]
    for bad in (torch.nan, torch.inf):
        hidden = torch.tensor([[1.0, 0, 0], [bad, 0, 0]], device=DEVICE)
        for uniform in (None, half[:2]):
            choice = sample_tokens(hidden, head, uniform, temperature=0.7, backend=backend)
            assert choice.probability.isnan().tolist() == [False, True]
            assert choice.entropy.isnan().tolist() == [False, True]
            assert bool(((choice.candidate >= 0) & (choice.candidate < 3)).all())


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from smalti.ops.sample_triton import _choose_in_a_row as kernel

types = {"logits": "*bf16", "uniforms": "*fp32", "current_tokens": "*i64", "candidates": "*i64"}
types |= {"probabilities": "*fp32", "current_probabilities": "*fp32", "entropies": "*fp32"}
types |= {"V": "i32", "coldness": "fp32"}
for target in (GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)):
    for draw, hot in ((False, False), (True, False), (True, True)):
        constants = {"DRAW": draw, "HOT": hot, "CURRENT": draw, "BLOCK": 4096}
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        compiled = triton.compile(ASTSource(kernel, signature, constants), target, {"num_warps": 8})
        assert compiled.asm
print("compiled")
"""


@pytest.mark.slow
def test_kernel_compiles_for_gpus(tmp_path: Path) -> None:
    """The interpreter takes programs that the compiler refuses, such as a variable that changes its type."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.stdout.strip() == "compiled", result.stderr
