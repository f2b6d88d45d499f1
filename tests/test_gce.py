"""Grouped cross-entropy against its definition: full logits and autograd."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.ops import gce
from smalti.ops.gce import grouped_cross_entropy


def membership(groups: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(N, V) bool: whether a code is in the group of a row's target."""
    if groups.ndim == 1:
        return groups[targets][:, None] == groups[None]
    member = torch.zeros(len(targets), len(groups), dtype=torch.bool)
    return member.scatter_(1, groups[targets], True)


def definition(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    groups: list[torch.Tensor],
    weights: list[float],
    row_weight: torch.Tensor | None = None,
    focus: float = 0.0,
    reduction: str = "mean",
) -> torch.Tensor:
    log_p = (hidden @ head.T).log_softmax(dim=1)
    loss = -log_p.gather(1, targets[:, None])[:, 0]
    scale = torch.ones_like(loss) if row_weight is None else row_weight.to(loss.dtype)
    total = scale.sum()
    if focus:
        scale = scale * (1 - (-loss.detach()).exp()) ** focus
    for entry, weight in zip(groups, weights, strict=True):
        inside = log_p.masked_fill(~membership(entry, targets), -torch.inf)
        loss = loss - weight * inside.logsumexp(dim=1)
    loss = (loss * scale).sum()
    return loss / total if reduction == "mean" else loss


@st.composite
def problems(draw: st.DrawFn) -> dict:
    N, D, V = draw(st.integers(1, 12)), draw(st.integers(1, 8)), draw(st.integers(2, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    groups = []
    for kind in draw(st.lists(st.sampled_from(["partition", "one", "single", "near"]), max_size=3)):
        if kind == "partition":
            groups.append(torch.randint(0, draw(st.integers(1, V)), (V,), generator=generator))
        elif kind == "near":
            others = torch.stack([torch.randperm(V, generator=generator) for _ in range(V)])
            own = torch.arange(V)[:, None]
            count = draw(st.integers(1, V))
            # Each code first, then others, without repeats.
            rest = others[others != own].reshape(V, V - 1)
            groups.append(torch.cat([own, rest], dim=1)[:, :count])
        else:
            groups.append(torch.zeros(V, dtype=torch.int64) if kind == "one" else torch.arange(V))
    row_weight = None
    if draw(st.booleans()):
        row_weight = torch.rand(N, generator=generator) * (torch.rand(N, generator=generator) < 0.7)
        row_weight[0] = 0.5
    return {
        "hidden": torch.randn(N, D, generator=generator) * 2,
        "head": torch.randn(V, D, generator=generator),
        "targets": torch.randint(0, V, (N,), generator=generator),
        "groups": groups,
        "weights": [draw(st.floats(0, 2)) for _ in groups],
        "row_weight": row_weight,
        "focus": draw(st.sampled_from([0.0, 0.5, 2.0])),
        "reduction": draw(st.sampled_from(["mean", "sum"])),
        "chunk": draw(st.integers(1, 100)),
    }


def run(problem: dict, dtype: torch.dtype, operator: bool) -> tuple[torch.Tensor, ...]:
    hidden = problem["hidden"].to(dtype).requires_grad_()
    head = problem["head"].to(dtype).requires_grad_()
    arguments = [
        problem[name] for name in ("targets", "groups", "weights", "row_weight", "focus", "reduction")
    ]
    if operator:
        with (
            mock.patch.dict(gce._CHUNK_ELEMENTS, cpu=problem["chunk"]),
            mock.patch.object(gce, "_LEAST_ROWS", 1),
        ):
            loss = grouped_cross_entropy(hidden, head, *arguments).loss
    else:
        loss = definition(hidden, head, *arguments)
    return loss.detach(), *torch.autograd.grad(loss * 3, (hidden, head))


@settings(max_examples=60, deadline=None)
@given(problems())
def test_loss_and_gradients_match_the_definition(problem: dict) -> None:
    exact = run(problem, torch.float64, operator=False)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        for found, wanted in zip(run(problem, dtype, operator=True), exact, strict=True):
            error = (found.double() - wanted).norm()
            # Where p_y is nearly 1 the loss is a difference of two large numbers: hence the absolute part.
            assert error <= tolerance * (wanted.norm() + 0.1)


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
    exact = run(problem, torch.float64, operator=False)
    for found, wanted in zip(run(problem, torch.bfloat16, operator=True), exact, strict=True):
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
    found = grouped_cross_entropy(
        problem["hidden"],
        problem["head"],
        problem["targets"],
        problem["groups"],
        problem["weights"],
        problem["row_weight"],
    )
    log_p = (problem["hidden"] @ problem["head"].T).log_softmax(dim=1)
    kept = torch.ones(len(log_p), dtype=torch.bool)
    if problem["row_weight"] is not None:
        kept = problem["row_weight"] != 0
    token = -log_p.gather(1, problem["targets"][:, None])[:, 0] * kept
    torch.testing.assert_close(found.token_loss, token, rtol=1e-4, atol=1e-5)
    best = log_p.argmax(dim=1)
    assert torch.equal(found.token_hit, (best == problem["targets"]) & kept)
    for column, groups in enumerate(problem["groups"]):
        member = membership(groups, problem["targets"])
        group = -log_p.masked_fill(~member, -torch.inf).logsumexp(dim=1) * kept
        torch.testing.assert_close(found.group_loss[:, column], group, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.group_hit[:, column], member.gather(1, best[:, None])[:, 0] & kept)


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
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    arguments = {"targets": [0, 1], "groups": torch.arange(5), "group_weights": 0.2, **change}
    arguments["targets"] = torch.tensor(arguments["targets"])
    with pytest.raises(SmaltiError, match=message):
        grouped_cross_entropy(torch.zeros(2, 3), torch.zeros(5, 3), **arguments)
