"""Grouped cross-entropy's Triton kernel against the definition: on a GPU, else in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from gce_definition import check_details, close, definition, problems, run, small_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.ops.gce import grouped_cross_entropy

pytest.importorskip("triton", reason="Triton cannot be installed here: it is made for Linux")

from smalti.ops import gce_triton  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and not gce_triton.INTERPRETED, reason="no GPU, and TRITON_INTERPRET is not 1"
)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(problems(), st.sampled_from([8, 32, 4096]))
def test_loss_gradients_and_details_match_the_definition(problem: dict, tile: int) -> None:
    with mock.patch.object(gce_triton, "_TILE", tile):
        exact = run(problem, torch.float64, None)
        for found, wanted in zip(run(problem, torch.float32, "triton", DEVICE), exact, strict=True):
            assert close(found, wanted, 1e-5)
        check_details(problem, "triton", DEVICE)


def test_overlapping_groupings_and_equal_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    # Codes 0 to 9 and 10 to 19 have the same logits: the first of the likeliest is the argmax.
    head = torch.randn(10, 4, generator=generator).repeat(2, 1)
    near = (torch.arange(20)[:, None] + torch.tensor([0, 1, 3, 10])) % 20
    problem = {
        "hidden": torch.randn(6, 4, generator=generator) * 2,
        "head": head,
        "targets": torch.tensor([0, 3, 9, 10, 13, 19]),
        "groups": [near, torch.arange(20) // 3, near[:, :3], torch.arange(20) % 7],
        "weights": [0.3, 0.5, 0.7, 1.1],
        "row_weight": None,
        "focus": 1.0,
        "reduction": "sum",
        "chunk": 4 * 20,
    }
    for tile in (4, 64):
        with mock.patch.object(gce_triton, "_TILE", tile):
            exact = run(problem, torch.float64, None)
            for found, wanted in zip(run(problem, torch.float32, "triton", DEVICE), exact, strict=True):
                assert close(found, wanted, 1e-5)
            check_details(problem, "triton", DEVICE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_within_a_hundredth(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    problem = {
        "hidden": torch.randn(24, 16, generator=generator).to(dtype),
        "head": (torch.randn(100, 16, generator=generator) * 0.25).to(dtype),
        "targets": torch.randint(0, 100, (24,), generator=generator),
        "groups": [torch.arange(100) // 8, (torch.arange(100)[:, None] + torch.arange(5)) % 100],
        "weights": [0.2, 0.1],
        "row_weight": None,
        "focus": 2.0,
        "reduction": "mean",
        "chunk": 10 * 100,
    }
    with mock.patch.object(gce_triton, "_TILE", 32):
        found = run(problem, dtype, "triton", DEVICE)
    for result, wanted in zip(found, run(problem, torch.float64, None), strict=True):
        assert result.dtype in (dtype, torch.float32)
        assert (result.double() - wanted).norm() <= 1e-2 * wanted.norm()


@pytest.mark.parametrize("accumulate_float32", [True, False])
def test_autocast_multiplies_in_bfloat16(accumulate_float32: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(12, 16, generator=generator).to(DEVICE).requires_grad_()
    head = torch.randn(50, 16, generator=generator).mul(0.25).to(DEVICE).requires_grad_()
    targets = torch.randint(0, 50, (12,), generator=generator).to(DEVICE)
    wanted = definition(hidden, head, targets, [], [])
    with torch.autocast(DEVICE, torch.bfloat16), small_chunks(5 * 50):
        loss = grouped_cross_entropy(
            hidden, head, targets, backend="triton", accumulate_float32=accumulate_float32
        ).loss
    assert abs(loss - wanted) < 1e-2 * wanted
    exact = torch.autograd.grad(wanted, (hidden, head))
    for found, gradient in zip(torch.autograd.grad(loss, (hidden, head)), exact, strict=True):
        assert found.dtype == torch.float32
        assert (found - gradient).norm() < 1e-2 * gradient.norm()


def test_one_row_is_computed_as_among_others() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 41, generator=generator).to(DEVICE)
    targets, weight = torch.tensor([4, 40, 0], device=DEVICE), torch.ones(3, device=DEVICE)
    # Ids beyond int16, and one group of all codes.
    groups = [torch.arange(41, device=DEVICE) // 5 * 40000, torch.zeros(41, dtype=torch.int64, device=DEVICE)]
    groupings = gce_triton.prepare(groups, [0.2, 0.3], logits.device)
    assert groupings.partitions.dtype == torch.int32
    whole = logits.clone()
    together = gce_triton.pass_in_place(whole, targets, weight, groupings, 0.5, True)
    for row in range(3):
        part = slice(row, row + 1)
        alone = logits[part].clone()
        details = gce_triton.pass_in_place(alone, targets[part], weight[part], groupings, 0.5, True)
        assert torch.equal(alone, whole[part])
        assert all(torch.equal(a, b[part]) for a, b in zip(details, together, strict=True))
    unchanged = logits.clone()
    details = gce_triton.pass_in_place(unchanged, targets, weight, groupings, 0.5, False)
    assert torch.equal(unchanged, logits)
    assert all(torch.equal(a, b) for a, b in zip(details, together, strict=True))


def test_no_rows_and_no_weight_give_zero() -> None:
    head = torch.randn(5, 3, device=DEVICE, requires_grad=True)
    near = torch.arange(5, device=DEVICE)[:, None]
    for rows in (0, 2):
        hidden = torch.randn(rows, 3, device=DEVICE, requires_grad=True)
        targets, weight = (
            torch.zeros(rows, dtype=torch.int64, device=DEVICE),
            torch.zeros(rows, device=DEVICE),
        )
        found = grouped_cross_entropy(hidden, head, targets, near, 0.5, weight, backend="triton")
        gradients = torch.autograd.grad(found.loss, (hidden, head))
        assert found.loss == 0 and all((gradient == 0).all() for gradient in gradients)
        assert found.token_loss.shape == (rows,) and found.group_loss.shape == (rows, 1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_large_logits_stay_finite_and_nan_stays_nan() -> None:
    hidden = torch.tensor([[300.0], [-300.0]], device=DEVICE, requires_grad=True)
    head = torch.tensor([[1.0], [-1.0], [0.5]], device=DEVICE, requires_grad=True)
    targets, groups = torch.tensor([1, 1], device=DEVICE), torch.tensor([0, 1, 1], device=DEVICE)
    found = grouped_cross_entropy(hidden, head, targets, groups, 0.2, focus=0.5, backend="triton")
    torch.testing.assert_close(found.token_loss.cpu(), torch.tensor([600.0, 0.0]))
    torch.testing.assert_close(found.group_loss[:, 0].cpu(), torch.tensor([150.0, 0.0]))
    for gradient in torch.autograd.grad(found.loss, (hidden, head)):
        assert gradient.isfinite().all()
    assert grouped_cross_entropy(hidden * torch.nan, head, targets, backend="triton").loss.isnan()


def test_without_groups_everything_is_on_the_rows_device() -> None:
    groupings = gce_triton.prepare([], [], torch.device("meta"))
    tensors = (groupings.partitions, groupings.columns, groupings.weights)
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 3


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from smalti.ops.gce_triton import _pass_over_a_row as kernel

types = {"logits": "*bf16", "targets": "*i64", "row_weights": "*fp32", "partitions": "*i16", "lists": "*i32"}
types |= {"weights": "*fp32", "near_gradients": "*bf16", "token_losses": "*fp32", "group_losses": "*fp32"}
types |= {"token_hits": "*i1", "group_hits": "*i1", "scales": "*fp32", "V": "i32"}
types |= {"total_weight": "fp32", "focus": "fp32"}
for target in (GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)):
    for P, Q in ((0, 0), (1, 1), (2, 2)):
        constants = {"P": P, "P_PADDED": max(P, 1), "Q": Q, "Q_PADDED": max(Q, 1), "LENGTH": 4}
        constants |= {"FOCUS": True, "GRADIENT": True, "BLOCK": 512}
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        compiled = triton.compile(ASTSource(kernel, signature, constants), target, {"num_warps": 4})
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
