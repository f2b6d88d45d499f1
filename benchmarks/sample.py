"""Measure time and memory of head and sampling, from hidden vectors to tokens: Smalti's operator against full logits.

python benchmarks/sample.py [--rows 4096] [--vocab 131072] [--dim 512] [--dtype float32] [--device cpu] [--json]

`full_logits` is the plain computation: conditional and unconditional logits of all rows, guidance, p = softmax at
temperature 1 in float32, a draw from softmax(logits / temperature), and from p the probabilities of the drawn and the
current token. `chunked` does the same for 128 rows at a time. `smalti` is `sample_tokens`, which computes the entropy
as well. Guidance is 5, the temperature 0.86.

Every contender runs in a process of its own, in turns, round after round; its time is the median of its rounds. Memory
is the peak above what was allocated before (hidden vectors, head, current tokens). The floor is the time of one
product, the guided hidden vectors by the head, at the rate of a product measured before and after each round. The
plain computation needs two such products.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import DTYPES, device_name, in_a_process, measure, product_rate

GUIDANCE, TEMPERATURE = 5.0, 0.86
CHUNK = 128


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=4096, help="N, positions of the grid")
    parser.add_argument("--vocab", type=int, default=131072, help="V, codes")
    parser.add_argument("--dim", type=int, default=512, help="D, width of a hidden vector")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of hidden vectors and head")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=1, help="rounds")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--one", choices=[*CONTENDERS, "product"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(product(options) if options.one == "product" else one(options)))
        return
    report = compare(options)
    if options.json:
        print(json.dumps(report))
        return
    print(
        f"{report['device']}, {options.dtype}, N {options.rows}, D {options.dim}, V {options.vocab}, guidance"
    )
    print(
        f"floor {report['floor_seconds']:.4f} s: one product at {report['gflops']:,.0f} GFLOP/s; two are twice that\n"
    )
    print("name           seconds   × floor   extra MB   time and memory against full logits")
    for row in report["runs"]:
        against = ""
        if "time_ratio" in row:
            against = f"{row['time_ratio']:>8.3f} {row['memory_ratio']:>8.4f}"
        print(
            f"{row['name']:<12} {row['seconds']:>9.4f} {row['floor_ratio']:>9.2f} {row['extra_mb']:>10,.1f} {against}"
        )


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run all contenders in turns, each in a process of its own."""
    names = options.only or list(CONTENDERS)
    rates: list[float] = []
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(options.repeats):
        rates.append(_process(options, "product")["flops"])
        for name in names:
            print(f"{name} ...", file=sys.stderr)
            found[name].append(_process(options, name))
        rates.append(_process(options, "product")["flops"])
    rate = statistics.median(rates)
    floor = 2 * options.rows * options.dim * options.vocab / rate
    seconds = {name: statistics.median(run["seconds"] for run in results) for name, results in found.items()}
    extra = {name: max(run["extra_mb"] for run in results) for name, results in found.items()}
    runs = []
    for name in names:
        run = {
            "name": name,
            "seconds": round(seconds[name], 5),
            "extra_mb": round(extra[name], 1),
            "floor_ratio": round(seconds[name] / floor, 3),
        }
        if extra.get("full_logits"):
            run["time_ratio"] = round(seconds[name] / seconds["full_logits"], 4)
            run["memory_ratio"] = round(extra[name] / extra["full_logits"], 4)
        runs.append(run)
    return {
        "device": device_name(options.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": options.dtype,
        "rows": options.rows,
        "dim": options.dim,
        "vocab": options.vocab,
        "gflops": round(rate / 1e9, 1),
        "floor_seconds": round(floor, 5),
        "runs": runs,
    }


def _process(options: argparse.Namespace, name: str) -> dict[str, float]:
    arguments = [f"--{key}={getattr(options, key)}" for key in ("rows", "vocab", "dim", "dtype", "device")]
    return in_a_process(__file__, [*arguments, f"--one={name}"])


@torch.inference_mode()
def one(options: argparse.Namespace) -> dict[str, float]:
    """Return seconds and extra megabytes of one contender."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    generator = torch.Generator(device).manual_seed(0)
    N, D, V = options.rows, options.dim, options.vocab
    hidden, uncond = (torch.randn(N, D, device=device, dtype=dtype, generator=generator) for _ in range(2))
    head = torch.empty(V, D, device=device, dtype=dtype).normal_(0, D**-0.5, generator=generator)
    # A model's unconditional output is near its conditional one.
    uncond.mul_(0.2).add_(hidden)
    current = torch.randint(V, (N,), device=device, generator=generator)
    call = CONTENDERS[options.one]
    # A few rows first: threads start and kernels compile outside of the timing.
    few = slice(N if device.type == "cuda" else 16)
    call(hidden[few], uncond[few], head if device.type == "cuda" else head[:4096], current[few] % 4096)
    seconds, extra = measure(lambda: call(hidden, uncond, head, current), device)
    return {"seconds": seconds, "extra_mb": extra / 1e6}


def product(options: argparse.Namespace) -> dict[str, float]:
    """Return the machine's rate of a matrix product of this width, in FLOP a second."""
    shape = (options.rows, options.dim, options.vocab)
    return {"flops": product_rate(torch.device(options.device), DTYPES[options.dtype], *shape)}


def _full_logits(
    hidden: torch.Tensor, uncond: torch.Tensor, head: torch.Tensor, current: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    conditional = hidden @ head.T
    unconditional = uncond @ head.T
    logits = (1 + GUIDANCE) * conditional - GUIDANCE * unconditional
    probabilities = logits.float().softmax(dim=-1)
    candidate = torch.multinomial((logits.float() / TEMPERATURE).softmax(dim=-1), 1)
    return candidate, probabilities.gather(1, candidate), probabilities.gather(1, current[:, None])


def _chunked(
    hidden: torch.Tensor, uncond: torch.Tensor, head: torch.Tensor, current: torch.Tensor
) -> list[torch.Tensor]:
    chunks = zip(*(part.split(CHUNK) for part in (hidden, uncond, current)), strict=True)
    parts = [_full_logits(rows, without, head, tokens) for rows, without, tokens in chunks]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _smalti(hidden: torch.Tensor, uncond: torch.Tensor, head: torch.Tensor, current: torch.Tensor) -> object:
    from smalti.ops.sample import sample_tokens

    return sample_tokens(
        hidden,
        head,
        torch.rand(len(hidden), device=hidden.device),
        hidden_uncond=uncond,
        guidance_scale=GUIDANCE,
        temperature=TEMPERATURE,
        current_tokens=current,
    )


Contender = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], object]
CONTENDERS: dict[str, Contender] = {"full_logits": _full_logits, "chunked": _chunked, "smalti": _smalti}


if __name__ == "__main__":
    main()
