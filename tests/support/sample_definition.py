"""The sampling operator by its definition, and random problems to hold a backend against it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from hypothesis import strategies as st

from smalti.ops import sample, sample_torch
from smalti.ops.sample import TokenChoice, filter_logits, sample_tokens


@st.composite
def problems(draw: st.DrawFn) -> dict:
    """The arguments of a call, on the CPU in float32.

    Hidden vectors, head and guidance are small whole numbers: logits are exact in whatever order they are computed, and
    many are equal.
    """
    N, D, V = draw(st.integers(0, 12)), draw(st.integers(1, 6)), draw(st.integers(1, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    largest = draw(st.sampled_from([1, 2, 30]))
    uniform = torch.rand(N, generator=generator)
    uniform[:2] = torch.tensor([0.0, 1 - 2**-24])[:N]
    return {
        "hidden": torch.randint(-largest, largest + 1, (N, D), generator=generator).float(),
        "head_weight": torch.randint(-2, 3, (V, D), generator=generator).float(),
        "uniform": draw(st.sampled_from([uniform, None])),
        "hidden_uncond": draw(
            st.sampled_from([None, torch.randint(-2, 3, (N, D), generator=generator).float()])
        ),
        "guidance_scale": draw(st.sampled_from([0.0, 1.0, 3.0])),
        "temperature": draw(st.sampled_from([0, 0.3, 1.0, 1.7])),
        "top_k": draw(st.sampled_from([None, None, 1, 3, 100])),
        "top_p": draw(st.sampled_from([None, None, 0.3, 0.9, 1.0])),
        # Some of them lie outside the head.
        "current_tokens": draw(
            st.sampled_from([None, torch.randint(-2, V + 3, (N,), generator=generator)]),
        ),
        "chunk_rows": draw(st.sampled_from([None, 1, 5])),
    }


def check(problem: dict, backend: str, device: str = "cpu") -> None:
    """Assert that a backend's choice is right: the mode and a draw's place exactly, numbers closely."""
    moved = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in problem.items()
    }
    found = TokenChoice(
        *(None if part is None else part.cpu() for part in sample_tokens(**moved, backend=backend))
    )
    hidden, head, uniform = moved["hidden"], moved["head_weight"], problem["uniform"]
    if moved["hidden_uncond"] is not None:
        scale = moved["guidance_scale"]
        hidden = (1 + scale) * hidden - scale * moved["hidden_uncond"]
    z = filter_logits(hidden @ head.T, moved["top_k"], moved["top_p"]).cpu().double()
    N, V = z.shape
    p = z.softmax(dim=1)
    assert found.candidate.dtype == torch.int64 and found.candidate.shape == (N,)
    chosen = found.candidate[:, None]
    if uniform is None or problem["temperature"] == 0:
        # Of the likeliest the first.
        best = z == z.amax(dim=1, keepdim=True)
        assert torch.equal(chosen, best.int().argmax(dim=1, keepdim=True))
    else:
        weights = (z / problem["temperature"]).softmax(dim=1)
        until = weights.cumsum(dim=1).gather(1, chosen)
        before = until - weights.gather(1, chosen)
        assert bool((weights.gather(1, chosen) > 0).all())
        assert bool((uniform[:, None] < until + 1e-5).all() and (uniform[:, None] > before - 1e-5).all())
    close(found.probability, p.gather(1, chosen)[:, 0])
    close(found.entropy, torch.special.entr(p).sum(dim=1))
    current = problem["current_tokens"]
    if current is None:
        assert found.current_probability is None
    else:
        known = (current >= 0) & (current < V)
        close(found.current_probability, p.gather(1, current.where(known, 0)[:, None])[:, 0] * known)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Float32, and close to double precision."""
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=3e-5, atol=1e-5)


@contextmanager
def small_sweeps(elements: int) -> Iterator[None]:
    """Sweeps over so many logits, and as many sorted at once."""
    with (
        mock.patch.dict(sample_torch._SWEPT_ELEMENTS, cpu=elements),
        mock.patch.object(sample_torch, "_SWEPT_ELEMENTS_ELSEWHERE", elements),
        mock.patch.object(sample, "_SORTED_ELEMENTS", elements),
    ):
        yield
