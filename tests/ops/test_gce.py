"""Grouped cross-entropy against its definition: full logits and autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gce_definition import check_details, close, definition, problems, run, small_chunks
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.ops.gce import grouped_cross_entropy


@settings(max_examples=60, deadline=None)
@given(problems())
def test_loss_and_gradients_match_the_definition(problem: dict) -> None:
    exact = run(problem, torch.float64, None)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        for found, wanted in zip(run(problem, dtype, "torch"), exact, strict=True):
            assert close(found, wanted, tolerance)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), focus=st.sampled_from([0.0, 2.0]))
def test_bf16_stays_within_a_hundredth(seed: int, focus: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    problem = {
        "hidden": torch.randn(64, 32, generator=generator).bfloat16(),
        "head": (torch.randn(200, 32, generator=generator) * 32**-0.5).bfloat16(),
        "targets": torch.randint(0, 200, (64,), generator=generator),
        "groups": [torch.randint(0, 20, (200,), generator=generator)],
        "weights": [0.2],
        "row_weight": None,
        "focus": focus,
        "reduction": "mean",
        "chunk": 30 * 200,
    }
    exact = run(problem, torch.float64, None)
    for found, wanted in zip(run(problem, torch.bfloat16, "torch"), exact, strict=True):
        assert (found.double() - wanted).norm() <= 1e-2 * wanted.norm()


def test_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    head = torch.randn(11, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.tensor([0, 10, 3, 3, 7])
    groups = [torch.arange(11) % 4, torch.zeros(11, dtype=torch.int64)]

    def loss(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        return grouped_cross_entropy(hidden, head, targets, groups, [0.2, 0.7], torch.arange(5.0)).loss

    assert torch.autograd.gradcheck(loss, (hidden, head))


@settings(max_examples=20, deadline=None)
@given(problems())
def test_details_match_the_definition(problem: dict) -> None:
    check_details(problem, "torch")


def test_a_kept_graph_can_be_differentiated_again() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(6, 4, generator=generator, requires_grad=True)
    head = torch.randn(9, 4, generator=generator, requires_grad=True)
    loss = grouped_cross_entropy(hidden, head, torch.arange(6), torch.arange(9) // 2, 0.2).loss
    once = torch.autograd.grad(loss, (hidden, head), retain_graph=True)
    copies = [gradient.clone() for gradient in once]
    thrice = torch.autograd.grad(3 * loss, (hidden, head))
    for gradient, copy, tripled in zip(once, copies, thrice, strict=True):
        assert torch.equal(gradient, copy)
        torch.testing.assert_close(tripled, 3 * copy)


def test_head_gradient_may_be_summed_in_its_own_dtype() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 32, generator=generator).bfloat16()
    head = torch.randn(200, 32, generator=generator).mul(32**-0.5).bfloat16().requires_grad_()
    targets = torch.randint(0, 200, (64,), generator=generator)
    wanted = definition(hidden.double(), head.double(), targets, [], [])
    wanted = torch.autograd.grad(wanted, head)[0]
    errors = []
    for accumulate_float32 in (True, False):
        with small_chunks(4 * 200):
            loss = grouped_cross_entropy(hidden, head, targets, accumulate_float32=accumulate_float32).loss
        gradient = torch.autograd.grad(loss, head)[0]
        assert gradient.dtype == torch.bfloat16
        errors.append(float((gradient - wanted).norm() / wanted.norm()))
    assert errors[0] < errors[1] < 2e-2


def test_groups_of_one_code_are_cross_entropy_scaled() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(6, 4, generator=generator), torch.randn(9, 4, generator=generator)
    targets = torch.randint(0, 9, (6,), generator=generator)
    plain = F.cross_entropy(hidden @ head.T, targets)
    torch.testing.assert_close(grouped_cross_entropy(hidden, head, targets).loss, plain)
    torch.testing.assert_close(
        grouped_cross_entropy(hidden, head, targets, torch.arange(9), 0.2).loss, 1.2 * plain
    )
    everything = grouped_cross_entropy(hidden, head, targets, torch.zeros(9, dtype=torch.int64), 0.2)
    torch.testing.assert_close(everything.loss, plain)
    assert everything.group_loss.abs().max() < 1e-6 and everything.group_hit.all()


def test_no_rows_and_no_weight_give_zero() -> None:
    head = torch.randn(5, 3, requires_grad=True)
    for rows in (0, 4):
        hidden = torch.randn(rows, 3, requires_grad=True)
        found = grouped_cross_entropy(
            hidden, head, torch.zeros(rows, dtype=torch.int64), torch.arange(5), 0.5, torch.zeros(rows)
        )
        gradients = torch.autograd.grad(found.loss, (hidden, head))
        assert found.loss == 0 and all((gradient == 0).all() for gradient in gradients)
        assert found.token_loss.shape == (rows,) and found.group_loss.shape == (rows, 1)


def test_large_logits_stay_finite() -> None:
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    head = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    found = grouped_cross_entropy(hidden, head, torch.tensor([1, 1]), torch.tensor([0, 1, 1]), 0.2)
    torch.testing.assert_close(found.token_loss, torch.tensor([600.0, 0.0]))
    torch.testing.assert_close(found.group_loss[:, 0], torch.tensor([150.0, 0.0]))
    for gradient in torch.autograd.grad(found.loss, (hidden, head)):
        assert gradient.isfinite().all()


def test_autocast_accumulation_checkpointing_and_compile() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 32, generator=generator)
    layer, head = torch.nn.Linear(32, 32), torch.nn.Linear(32, 300, bias=False)
    targets, groups = torch.randint(0, 300, (64,), generator=generator), torch.arange(300) // 8

    def loss(rows: slice, recompute: bool) -> torch.Tensor:
        def body(x: torch.Tensor) -> torch.Tensor:
            return grouped_cross_entropy(
                layer(x), head.weight, targets[rows], groups, 0.2, reduction="sum"
            ).loss

        if recompute:
            return torch.utils.checkpoint.checkpoint(body, inputs[rows], use_reentrant=False)
        return body(inputs[rows])

    parameters = [layer.weight, head.weight]
    exact = definition(layer(inputs), head.weight, targets, [groups], [0.2], reduction="sum")
    wanted = torch.autograd.grad(exact, parameters)
    for recompute in (False, True):
        for half in (slice(0, 32), slice(32, 64)):
            loss(half, recompute).backward()
        for parameter, gradient in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4)
            parameter.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss(slice(0, 64), False)
    assert abs(rounded - exact) / exact < 1e-2
    for found, gradient in zip(torch.autograd.grad(rounded, parameters), wanted, strict=True):
        assert found.dtype == torch.float32
        assert (found - gradient).norm() / gradient.norm() < 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": [0, 5]}, "targets must be from 0 to 4, not 0 to 5"),
        ({"targets": [-1, 2]}, "targets must be from 0 to 4, not -1 to 2"),
        ({"targets": [0]}, r"targets must be \(2,\), not \(1,\)"),
        ({"groups": torch.zeros(4, dtype=torch.int64)}, r"groups must be \(5,\) or \(5, n\), not \(4,\)"),
        ({"groups": torch.full((5, 2), 5)}, "groups must hold ids from 0, not 5 to 5"),
        ({"group_weights": [0.1, 0.2]}, "group_weights must be 1, one a grouping, not 2"),
        ({"group_weights": -0.1}, "group_weights must be 0 or more and finite, not -0.1"),
        ({"row_weight": torch.tensor([1.0, -1.0])}, "row_weight must be 0 or more"),
        ({"focus": -1.0}, "focus must be 0 or more and finite, not -1.0"),
        ({"reduction": "none"}, "reduction must be"),
        ({"backend": "cuda"}, "backend must be"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    arguments = {"targets": [0, 1], "groups": torch.arange(5), "group_weights": 0.2, **change}
    arguments["targets"] = torch.tensor(arguments["targets"])
    with pytest.raises(SmaltiError, match=message):
        grouped_cross_entropy(torch.zeros(2, 3), torch.zeros(5, 3), **arguments)
