"""Head, guidance and sampling in one operator: hidden vectors in, one token a row out (docs/format.md, section 5)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from smalti.common.checks import check_real, check_whole
from smalti.common.low_rank import LowRank
from smalti.errors import SmaltiError
from smalti.ops.backend import choose_backend
from smalti.ops.low_rank import check_low_rank
from smalti.ops.tilt import Tilt, check_tilt

# Logits of one chunk. On a CPU 2²¹ float32 values, 8 MB, stay in its cache, but a product of too few rows is slow; a
# GPU wants large products.
_CHUNK_ELEMENTS = {"cpu": 2**21}
_CHUNK_ELEMENTS_ELSEWHERE = 2**26
_LEAST_ROWS = 256
# Logits that are sorted at once, where top-p asks for it.
_SORTED_ELEMENTS = 2**22
# Temperatures beyond these change nothing, but their reciprocals leave float32's range.
_COLDEST, _HOTTEST = 1e-30, 1e20
# So does a top_p below this: it keeps the most probable token alone.
_LEAST_TOP_P = 1e-30


class TokenChoice(NamedTuple):
    """The choice in each row from p = softmax(logits), taken at temperature 1 after top-k and top-p.

    Attributes:
        candidate: (N,) int64, the token chosen.
        probability: (N,) float32, p of the candidate.
        current_probability: (N,) float32, p of the row's current token (0 for ids outside the head, such as
            the mask), or None without current tokens.
        entropy: (N,) float32, of p in nats.
    """

    candidate: torch.Tensor
    probability: torch.Tensor
    current_probability: torch.Tensor | None
    entropy: torch.Tensor


@torch.no_grad()
def sample_tokens(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    uniform: torch.Tensor | None = None,
    *,
    hidden_uncond: torch.Tensor | None = None,
    guidance_scale: float = 0.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    current_tokens: torch.Tensor | None = None,
    chunk_rows: int | None = None,
    backend: str = "auto",
    low_rank: LowRank | None = None,
    tilt: Tilt | None = None,
) -> TokenChoice:
    """Choose a token for every row from the guided logits (1 + s)·cond − s·uncond.

    The head is linear, so guidance combines the hidden vectors instead of the logits, which saves a product. Logits
    exist for a chunk of rows at a time. The candidate is p's mode, or drawn from softmax(logits / temperature) by
    inverting the cumulative distribution at `uniform`. Its probability is read from p, at temperature 1.

    Args:
        hidden: (N, D) conditional hidden vectors.
        head_weight: (V, D).
        uniform: (N,) float in [0, 1), one number a row, or None for the mode.
        hidden_uncond: (N, D) unconditional hidden vectors, or None for no guidance.
        guidance_scale: guidance strength s.
        temperature: sampling temperature; 0 means the mode.
        top_k: number of largest logits to keep (with those equal to the k-th), or None.
        top_p: probability that the fewest tokens kept after top-k must reach, or None.
        current_tokens: (N,) int64, further tokens to report the probability of, or None.
        chunk_rows: rows at a time. None means 2²¹ logits on a CPU, 2²⁶ elsewhere, but at least 256 rows.
        backend: "torch", "triton", or "auto". The last means Triton for tensors on a GPU where it is installed.
            PyTorch always filters by top-k and top-p, and computes float64.
        low_rank, tilt: update of the head, such as an adapter's, and sums with the guided logits of rows, or None.

    Raises:
        SmaltiError: an argument that is out of range or of the wrong shape, or a backend that cannot run here.
    """
    _check(hidden, head_weight, uniform, hidden_uncond, current_tokens)
    _check_sums(hidden, head_weight, low_rank, tilt)
    check_filters(temperature, top_k, top_p)
    if chunk_rows is not None:
        check_whole("chunk_rows", chunk_rows)
    choose_tokens = choose_backend("sample", backend, hidden).choose_tokens
    (N, V), device = (hidden.shape[0], head_weight.shape[0]), hidden.device
    if temperature == 0:
        uniform = None
    coldness = min(max(1 / max(temperature, _COLDEST), 1 / _HOTTEST), 1 / _COLDEST)
    size = min(
        chunk_rows or max(_LEAST_ROWS, _CHUNK_ELEMENTS.get(device.type, _CHUNK_ELEMENTS_ELSEWHERE) // V), N
    )
    least = rows_of_a_product(device)
    # Every chunk uses the same memory.
    products = torch.empty(max(size, least) if N else 0, V, dtype=head_weight.dtype, device=device)
    choice = _empty_choice(N, device, current_tokens is not None)
    for start in range(0, N, size or 1):
        part = slice(start, start + size)
        guided = hidden[part]
        if hidden_uncond is not None:
            guided = (1 + guidance_scale) * guided.float() - guidance_scale * hidden_uncond[part].float()
        guided = guided.to(head_weight.dtype)
        rows = len(guided)
        if rows < least:
            guided = torch.cat([guided, guided[-1:].expand(least - rows, -1)])
        logits = torch.mm(guided, head_weight.T, out=products[: len(guided)])
        _add(logits, guided, part, low_rank, tilt)
        logits = logits[:rows]
        _filter_in_place(logits, top_k, top_p)
        chosen = choose_tokens(
            logits,
            None if uniform is None else uniform[part],
            coldness,
            None if current_tokens is None else current_tokens[part],
        )
        for column, values in zip(choice, chosen, strict=True):
            if column is not None:
                column[part] = values
    return choice


def _add(
    logits: torch.Tensor, guided: torch.Tensor, part: slice, low_rank: LowRank | None, tilt: Tilt | None
) -> None:
    """Add what is added to the products of a chunk, in place."""
    if low_rank is not None:
        low_rank.add_to(logits, guided)
    if tilt is not None:
        tilt.add_to(logits, part)


def _empty_choice(N: int, device: torch.device, current: bool) -> TokenChoice:
    """Return room for a choice, with the current tokens' probabilities if they are wanted."""
    return TokenChoice(
        torch.empty(N, dtype=torch.int64, device=device),
        torch.empty(N, dtype=torch.float32, device=device),
        torch.empty(N, dtype=torch.float32, device=device) if current else None,
        torch.empty(N, dtype=torch.float32, device=device),
    )


def rows_of_a_product(device: torch.device) -> int:
    """Return how many rows a matrix product needs so that a CPU computes each row in the same way.

    For a few rows other kernels run, which round differently. A token could then depend on how many others are
    chosen with it.
    """
    return 8 * (torch.get_num_threads() + 1) if device.type == "cpu" else 1


def _filter_in_place(logits: torch.Tensor, top_k: int | None, top_p: float | None) -> None:
    """Apply `filter_logits` to (n, V) in any float dtype, a few rows at a time, because sorting copies them."""
    if top_k is None and top_p is None:
        return
    for rows in logits.split(max(1, _SORTED_ELEMENTS // logits.shape[1])):
        rows.copy_(filter_logits(rows.float(), top_k, top_p))


def filter_logits(logits: torch.Tensor, top_k: int | None, top_p: float | None) -> torch.Tensor:
    """Set the logits that top-k, then top-p leave out to −∞: (N, V) float32 → the same."""
    if top_k is not None and top_k < logits.shape[1]:
        smallest = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -math.inf)
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=1, descending=True, stable=True)
        probabilities = ordered.softmax(dim=1)
        # A token stays while those before it fall short of top_p, so the first always does.
        left_out = probabilities.cumsum(dim=1) - probabilities >= max(top_p, _LEAST_TOP_P)
        logits = logits.masked_fill(left_out.scatter(1, order, left_out), -math.inf)
    return logits


def check_filters(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise SmaltiError unless temperature, top_k and top_p are in range."""
    check_real("temperature", temperature)
    if top_k is not None:
        check_whole("top_k", top_k)
    if top_p is not None:
        check_real("top_p", top_p, 0, 1, above=True)


def _check_sums(
    hidden: torch.Tensor, head_weight: torch.Tensor, low_rank: LowRank | None, tilt: Tilt | None
) -> None:
    check_low_rank(low_rank, head_weight)
    check_tilt(tilt, len(hidden), len(head_weight))


def _check(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    uniform: torch.Tensor | None,
    hidden_uncond: torch.Tensor | None,
    current_tokens: torch.Tensor | None,
) -> None:
    if hidden.ndim != 2 or head_weight.ndim != 2 or hidden.shape[1] != head_weight.shape[1]:
        raise SmaltiError(
            "hidden must be (N, D) and head_weight (V, D), "
            f"not {tuple(hidden.shape)} and {tuple(head_weight.shape)}"
        )
    if hidden_uncond is not None and hidden_uncond.shape != hidden.shape:
        raise SmaltiError(f"hidden_uncond must be {tuple(hidden.shape)}, not {tuple(hidden_uncond.shape)}")
    for name, value in (("uniform", uniform), ("current_tokens", current_tokens)):
        if value is not None and value.shape != hidden.shape[:1]:
            raise SmaltiError(f"{name} must be ({hidden.shape[0]},), not {tuple(value.shape)}")
