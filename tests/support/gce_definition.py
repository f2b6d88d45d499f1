"""Grouped cross-entropy by its definition, and random problems to hold a backend against it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from hypothesis import strategies as st

from smalti.ops import gce, gce_torch
from smalti.ops.gce import grouped_cross_entropy


def membership(groups: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(N, V) bool: whether a code is in the group of a row's target."""
    if groups.ndim == 1:
        return groups[targets][:, None] == groups[None]
    member = torch.zeros(len(targets), len(groups), dtype=torch.bool, device=groups.device)
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
    """The loss from full logits, for autograd to differentiate."""
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
    """What a call is made of, with the dtype open, and the elements of its chunks."""
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
        "head": torch.randn(V, D, generator=generator) * D**-0.5,
        "targets": torch.randint(0, V, (N,), generator=generator),
        "groups": groups,
        "weights": [draw(st.floats(0, 2)) for _ in groups],
        "row_weight": row_weight,
        "focus": draw(st.sampled_from([0.0, 0.5, 2.0])),
        "reduction": draw(st.sampled_from(["mean", "sum"])),
        "chunk": draw(st.integers(1, 100)),
    }


def run(
    problem: dict, dtype: torch.dtype, backend: str | None, device: str = "cpu"
) -> tuple[torch.Tensor, ...]:
    """Loss and, of three times the loss, the gradients to hidden and head; by definition where there is no backend."""
    hidden = problem["hidden"].to(device, dtype).requires_grad_()
    head = problem["head"].to(device, dtype).requires_grad_()
    arguments = [
        move(problem[name], device)
        for name in ("targets", "groups", "weights", "row_weight", "focus", "reduction")
    ]
    if backend is None:
        loss = definition(hidden, head, *arguments)
    else:
        with small_chunks(problem["chunk"]):
            loss = grouped_cross_entropy(hidden, head, *arguments, backend=backend).loss
    return tuple(result.detach().cpu() for result in (loss, *torch.autograd.grad(loss * 3, (hidden, head))))


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> bool:
    """Relative closeness, and an absolute part for rows whose p_y is nearly 1.

    There p_y − 1 is known to half a unit of 1's last place, 6e-8 in float32; times 3 and a row's length of up to about
    10, that is 2e-6, however small the gradient.
    """
    return bool((found.double() - wanted).norm() <= tolerance * (wanted.norm() + 0.25))


def move(value: object, device: str) -> object:
    """A tensor or a list of tensors on the device, anything else as it is."""
    if isinstance(value, list):
        return [move(entry, device) for entry in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value


@contextmanager
def small_chunks(elements: int) -> Iterator[None]:
    """Chunks of so many logits, passes over half as many, and blocks of so many values of the head's gradient."""
    with (
        mock.patch.dict(gce._CHUNK_ELEMENTS, cpu=elements),
        mock.patch.dict(gce._BLOCK_ELEMENTS, cpu=elements),
        mock.patch.object(gce, "_CHUNK_BYTES_ELSEWHERE", 4 * elements),
        mock.patch.object(gce, "_BLOCK_ELEMENTS_ELSEWHERE", elements),
        mock.patch.object(gce, "_LEAST_ROWS", 1),
        mock.patch.object(gce_torch, "_CACHED_ELEMENTS", elements // 2),
    ):
        yield


def check_details(problem: dict, backend: str, device: str = "cpu") -> None:
    """The numbers of each row, in float32, as they are by definition."""
    names = ("hidden", "head", "targets", "groups", "weights", "row_weight")
    found = grouped_cross_entropy(*(move(problem[name], device) for name in names), backend=backend)
    token_loss, group_loss, token_hit, group_hit = (detail.cpu() for detail in found[1:])
    log_p = (problem["hidden"] @ problem["head"].T).log_softmax(dim=1)
    kept = torch.ones(len(log_p), dtype=torch.bool)
    if problem["row_weight"] is not None:
        kept = problem["row_weight"] != 0
    token = -log_p.gather(1, problem["targets"][:, None])[:, 0] * kept
    torch.testing.assert_close(token_loss, token, rtol=1e-4, atol=1e-5)
    best = log_p.argmax(dim=1)
    assert torch.equal(token_hit, (best == problem["targets"]) & kept)
    for column, groups in enumerate(problem["groups"]):
        member = membership(groups, problem["targets"])
        group = -log_p.masked_fill(~member, -torch.inf).logsumexp(dim=1) * kept
        torch.testing.assert_close(group_loss[:, column], group, rtol=1e-4, atol=1e-5)
        assert torch.equal(group_hit[:, column], member.gather(1, best[:, None])[:, 0] & kept)
