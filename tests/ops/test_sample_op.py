"""The sampling operator against the plain computation over the whole vocabulary."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_definition import check, problems, small_sweeps
from torch.overrides import TorchFunctionMode

from smalti.errors import SmaltiError
from smalti.ops.sample import filter_logits, sample_tokens


def problem(rows=50, dim=16, vocabulary=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden, uncond = torch.randn(2, rows, dim, generator=generator)
    head = torch.randn(vocabulary, dim, generator=generator)
    return hidden, uncond, head, torch.rand(rows, generator=generator)


def test_the_mode_and_its_numbers():
    hidden, uncond, head, _ = problem()
    current = torch.arange(50) % 42  # 40 and 41 lie outside the head
    choice = sample_tokens(hidden, head, hidden_uncond=uncond, guidance_scale=2.0, current_tokens=current)
    p = (3 * (hidden @ head.T) - 2 * (uncond @ head.T)).double().softmax(dim=1)
    assert torch.equal(choice.candidate, p.argmax(dim=1))
    torch.testing.assert_close(choice.probability.double(), p.max(dim=1).values, atol=1e-5, rtol=1e-4)
    expected = torch.cat([p, torch.zeros(50, 2)], dim=1).gather(1, current[:, None])[:, 0]
    torch.testing.assert_close(choice.current_probability.double(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(choice.entropy.double(), torch.special.entr(p).sum(1), atol=1e-4, rtol=1e-3)


@settings(max_examples=40, deadline=None)
@given(problems(), st.sampled_from([1, 64, 2**21]))
def test_choices_match_the_definition(problem, sweep):
    with small_sweeps(sweep):
        check(problem, "torch")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    chunk=st.integers(1, 60),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([None, 1, 5, 100]),
    top_p=st.sampled_from([None, 0.2, 0.9, 1.0]),
    scale=st.sampled_from([0.0, 3.0]),
)
def test_chunks_and_company_change_nothing(seed, chunk, temperature, top_k, top_p, scale):
    hidden, uncond, head, uniform = problem(seed=seed)
    options = dict(guidance_scale=scale, temperature=temperature, top_k=top_k, top_p=top_p)
    whole = sample_tokens(hidden, head, uniform, hidden_uncond=uncond, **options)
    parts = sample_tokens(hidden, head, uniform, hidden_uncond=uncond, chunk_rows=chunk, **options)
    some = torch.arange(50)[seed % 7 :: 1 + seed % 11]
    alone = sample_tokens(hidden[some], head, uniform[some], hidden_uncond=uncond[some], **options)
    for one, other, few in zip(whole, parts, alone, strict=True):
        if one is not None:
            assert torch.equal(one, other)
            assert torch.equal(one[some], few)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sweeps_and_company_change_nothing_in_a_wide_head(dtype):
    hidden, uncond, head, uniform = problem(rows=70, dim=24, vocabulary=3001)
    hidden, uncond, head = (hidden / 2).to(dtype), (uncond / 2).to(dtype), head.to(dtype)
    current = torch.arange(70) * 43
    for temperature in (1.0, 0.8):

        def choose(rows, temperature=temperature, **options):
            return sample_tokens(
                hidden[rows],
                head,
                uniform[rows],
                hidden_uncond=uncond[rows],
                guidance_scale=1.0,
                temperature=temperature,
                current_tokens=current[rows],
                **options,
            )

        whole = choose(slice(None))
        for rows, sweep in (
            (slice(None), 1),
            (slice(None), 7 * 3001),
            (slice(5, 6), 2**21),
            (slice(1, 70, 3), 1),
        ):
            for chunk in (1, 13, None):
                with small_sweeps(sweep):
                    found = choose(rows, chunk_rows=chunk)
                assert all(torch.equal(a, b[rows]) for a, b in zip(found, whole, strict=True))


def test_memory_is_a_chunk_not_the_whole():
    """Of 2,000 rows and 40 at a time, no tensor is larger than a chunk of logits."""
    largest = 0

    class Largest(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), options=None):
            nonlocal largest
            result = function(*arguments, **(options or {}))
            for part in result if isinstance(result, tuple | list) else [result]:
                if isinstance(part, torch.Tensor):
                    largest = max(largest, part.numel())
            return result

    hidden, uncond, head, uniform = problem(rows=2000, dim=4, vocabulary=500)
    with Largest():
        sample_tokens(hidden, head, uniform, hidden_uncond=uncond, guidance_scale=2.0, chunk_rows=40)
    # With more threads a product needs more rows to compute each in the same way.
    assert largest == max(40, 8 * (torch.get_num_threads() + 1)) * 500


def test_draws_follow_the_distribution():
    hidden, _, head, _ = problem(rows=1, vocabulary=6)
    uniform = (torch.arange(60000) + 0.5) / 60000
    rows = hidden.expand(60000, -1)
    for temperature in (0.5, 1.0, 2.0):
        choice = sample_tokens(rows, head, uniform, temperature=temperature)
        frequency = choice.candidate.bincount(minlength=6) / 60000
        expected = (hidden @ head.T / temperature).softmax(dim=1)[0]
        torch.testing.assert_close(frequency, expected, atol=5e-5, rtol=0)
        p = (hidden @ head.T).softmax(dim=1)[0]
        torch.testing.assert_close(choice.probability, p[choice.candidate], msg="read at temperature 1")


def test_the_draw_inverts_the_cumulative_distribution():
    hidden, _, head, uniform = problem()
    cumulative = (hidden @ head.T).double().softmax(dim=1).cumsum(dim=1)
    expected = (cumulative <= uniform[:, None]).sum(dim=1)
    assert torch.equal(sample_tokens(hidden, head, uniform).candidate, expected)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24, 1.0])
def test_the_ends_of_the_unit_interval_never_pick_what_is_left_out(u):
    hidden, _, head, _ = problem(rows=200, vocabulary=400)
    logits = filter_logits(hidden @ head.T, 3, None)
    choice = sample_tokens(hidden, head, torch.full((200,), u), top_k=3)
    assert bool(logits.gather(1, choice.candidate[:, None]).isfinite().all())
    assert bool((choice.probability > 0).all())


def test_temperature_zero_is_the_mode():
    hidden, _, head, uniform = problem()
    cold = sample_tokens(hidden, head, uniform, temperature=0)
    assert torch.equal(cold.candidate, (hidden @ head.T).argmax(dim=1))
    for temperature in (1e-5, 1e-40, 1e-320):
        almost = sample_tokens(hidden, head, uniform, temperature=temperature)
        assert torch.equal(almost.candidate, cold.candidate)
        torch.testing.assert_close(almost.probability, cold.probability)


def test_endless_heat_is_uniform():
    hidden, _, head, uniform = problem()
    choice = sample_tokens(hidden, head, uniform, temperature=1e300)
    assert torch.equal(choice.candidate, (uniform * 40).long())
    p = (hidden @ head.T).softmax(dim=1).gather(1, choice.candidate[:, None])[:, 0]
    torch.testing.assert_close(choice.probability, p, rtol=1e-4, atol=1e-6)


def test_filters_keep_what_they_say():
    p = torch.tensor([[0.1, 0.4, 0.3, 0.15, 0.05]])

    def kept(top_k=None, top_p=None):
        return filter_logits(p.log(), top_k, top_p).isfinite()[0].tolist()

    assert kept(top_k=2) == [False, True, True, False, False]
    assert kept(top_k=9) == [True] * 5
    assert kept(top_p=0.39) == [False, True, False, False, False]
    assert kept(top_p=0.5) == [False, True, True, False, False]
    assert kept(top_p=1e-9) == [False, True, False, False, False]
    assert kept(top_p=1.0) == [True] * 5
    # top-p counts what top-k left: 0.4/0.7 of it is the first token.
    assert kept(top_k=2, top_p=0.55) == [False, True, False, False, False]


def test_extreme_logits_stay_finite():
    head = torch.eye(3) * 1e4
    choice = sample_tokens(torch.eye(3), head, torch.full((3,), 0.5), current_tokens=torch.tensor([1, 1, 7]))
    assert choice.candidate.tolist() == [0, 1, 2]
    assert choice.probability.tolist() == [1, 1, 1] and choice.entropy.tolist() == [0, 0, 0]
    assert choice.current_probability.tolist() == [0, 1, 0]


def test_no_rows_and_short_floats():
    hidden, uncond, head, uniform = problem()
    empty = sample_tokens(hidden[:0], head, uniform[:0], current_tokens=torch.zeros(0, dtype=torch.int64))
    assert [part.shape for part in empty] == [(0,)] * 4 and empty.candidate.dtype == torch.int64
    short = sample_tokens(
        hidden.bfloat16(), head.bfloat16(), uniform, hidden_uncond=uncond.bfloat16(), guidance_scale=1.0
    )
    assert short.probability.dtype == torch.float32
    assert math.isclose(float(short.entropy.mean()), float(short.entropy.mean()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be a finite number of at least 0, not -1.0"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, not 0"),
        ({"top_k": 2.5}, "top_k"),
        ({"top_p": 0.0}, "top_p must be a finite number above 0 and at most 1, not 0.0"),
        ({"top_p": 1.5}, "top_p"),
        ({"chunk_rows": 0}, "chunk_rows"),
        ({"backend": "cuda"}, 'backend must be "auto", "torch" or "triton", not \'cuda\''),
        ({"uniform": torch.rand(3)}, r"uniform must be \(50,\), not \(3,\)"),
        ({"current_tokens": torch.zeros(3)}, "current_tokens"),
        ({"hidden_uncond": torch.zeros(3, 16)}, r"hidden_uncond must be \(50, 16\)"),
        ({"head_weight": torch.zeros(40, 17)}, r"head_weight \(V, D\)"),
    ],
)
def test_bad_arguments_are_named(options, message):
    hidden, _, head, _ = problem()
    with pytest.raises(SmaltiError, match=message):
        sample_tokens(**{"hidden": hidden, "head_weight": head, **options})
