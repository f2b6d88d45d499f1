"""Measure time and memory of cross-entropy over a large vocabulary, forward and backward, against other operators.

python benchmarks/gce.py [--rows 4096] [--dim 1024] [--codes 131072] [--dtype float32] [--device cpu] [--json]

Every contender runs in a process of its own, in turns, round after round; its time is the median of its rounds. Memory
is the peak above what was allocated before (hidden, head, targets), less the two gradients. The floor is the time of
the three necessary matrix products (logits, and the gradients of hidden and head), at the rate of a product measured
before and after each round; `matmul_share` is the floor over the time.

All but smalti_grouped compute plain cross-entropy: `naive` builds all logits and leaves the rest to autograd,
`torch_chunked` is PyTorch's own chunked linear_cross_entropy, `liger` and `cce` (Liger Kernel, Apple's Cut
Cross-Entropy) join on CUDA where they are installed, `smalti_grouped` adds a partition into 16,384 groups,
`smalti_float32` sums the head's gradient in float32, where that differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import DTYPES, device_name, in_a_process, measure, product_rate
from torch.nn import functional as F

GROUPS, GROUP_WEIGHT = 16384, 0.2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=4096, help="N, tokens")
    parser.add_argument("--dim", type=int, default=1024, help="D, width of a hidden vector")
    parser.add_argument("--codes", type=int, default=131072, help="V, the vocabulary")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of hidden and head")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=1, help="rounds")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=CONTENDERS, help=", ".join(CONTENDERS))
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
    print(f"{report['device']}, {options.dtype}, N {options.rows}, D {options.dim}, V {options.codes}")
    print(f"floor {report['floor_seconds']:.3f} s: three products at {report['gflops']:,.0f} GFLOP/s\n")
    print("name             seconds   extra MB   share of the product rate")
    for row in report["runs"]:
        print(
            f"{row['name']:<15} {row['seconds']:>8.3f} {row['extra_mb']:>10,.0f} {row['matmul_share']:>8.2f}"
        )


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run all contenders in turns, each in a process of its own."""
    names = options.only or [name for name in CONTENDERS if available(name, options.device, options.dtype)]
    rates: list[float] = []
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(options.repeats):
        rates.append(_process(options, "product")["flops"])
        for name in names:
            print(f"{name} ...", file=sys.stderr)
            found[name].append(_process(options, name))
        rates.append(_process(options, "product")["flops"])
    rate = statistics.median(rates)
    floor = 3 * 2 * options.rows * options.dim * options.codes / rate
    runs = []
    for name, results in found.items():
        seconds = statistics.median(result["seconds"] for result in results)
        extra = max(result["extra_mb"] for result in results)
        runs.append(
            {
                "name": name,
                "seconds": round(seconds, 4),
                "extra_mb": round(extra, 1),
                "matmul_share": round(floor / seconds, 3),
            }
        )
    return {
        "device": device_name(options.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": options.dtype,
        "rows": options.rows,
        "dim": options.dim,
        "codes": options.codes,
        "gflops": round(rate / 1e9, 1),
        "floor_seconds": round(floor, 4),
        "runs": runs,
    }


def available(name: str, device: str, dtype: str) -> bool:
    """Return whether a contender can run here."""
    if name == "smalti_float32":
        return dtype != "float32"
    module = {"liger": "liger_kernel", "cce": "cut_cross_entropy"}.get(name)
    return module is None or (device.startswith("cuda") and importlib.util.find_spec(module) is not None)


def _process(options: argparse.Namespace, name: str) -> dict[str, float]:
    arguments = [f"--{key}={getattr(options, key)}" for key in ("rows", "dim", "codes", "dtype", "device")]
    return in_a_process(__file__, [*arguments, f"--one={name}"])


def one(options: argparse.Namespace) -> dict[str, float]:
    """Return seconds and extra megabytes of one contender, forward and backward."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    generator = torch.Generator(device).manual_seed(0)
    N, D, V = options.rows, options.dim, options.codes
    hidden = torch.randn(N, D, device=device, dtype=dtype, generator=generator).requires_grad_()
    head = torch.empty(V, D, device=device, dtype=dtype).normal_(0, D**-0.5, generator=generator)
    head.requires_grad_()
    targets = torch.randint(V, (N,), device=device, generator=generator)
    groups = torch.randint(min(GROUPS, V), (V,), device=device, generator=generator)
    call = CONTENDERS[options.one]
    # A few rows first: threads start and kernels compile outside of the timing.
    warm = N if device.type == "cuda" else min(N, 16)
    call(hidden[:warm], head[: min(V, 4096)] if device.type == "cpu" else head, targets[:warm] % 4096, groups)

    def forget() -> None:
        hidden.grad = head.grad = None

    seconds, extra = measure(lambda: call(hidden, head, targets, groups).backward(), device, forget)
    # The gradients are the result, not extra memory.
    return {"seconds": seconds, "extra_mb": max(0, extra - hidden.nbytes - head.nbytes) / 1e6}


def product(options: argparse.Namespace) -> dict[str, float]:
    """Return the machine's rate of a matrix product of this width, in FLOP a second."""
    shape = (options.rows, options.dim, options.codes)
    return {"flops": product_rate(torch.device(options.device), DTYPES[options.dtype], *shape)}


def _naive(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy((hidden @ head.T).float(), targets)


def _torch_chunked(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, _: torch.Tensor
) -> torch.Tensor:
    return F.linear_cross_entropy(hidden, head, targets, options=torch.nn.LinearCrossEntropyOptions())


def _smalti(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    from smalti.ops.gce import grouped_cross_entropy

    return grouped_cross_entropy(hidden, head, targets).loss


def _smalti_grouped(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor
) -> torch.Tensor:
    from smalti.ops.gce import grouped_cross_entropy

    return grouped_cross_entropy(hidden, head, targets, groups[: len(head)], GROUP_WEIGHT).loss


def _smalti_float32(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, _: torch.Tensor
) -> torch.Tensor:
    from smalti.ops.gce import grouped_cross_entropy

    return grouped_cross_entropy(hidden, head, targets, accumulate_float32=True).loss


def _liger(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    return LigerFusedLinearCrossEntropyLoss()(head, hidden, targets)


def _cce(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    from cut_cross_entropy import linear_cross_entropy

    return linear_cross_entropy(hidden, head, targets)


Contender = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
CONTENDERS: dict[str, Contender] = {
    "naive": _naive,
    "torch_chunked": _torch_chunked,
    "smalti": _smalti,
    "smalti_grouped": _smalti_grouped,
    "smalti_float32": _smalti_float32,
    "liger": _liger,
    "cce": _cce,
}


if __name__ == "__main__":
    main()
