"""Draw with a model of the release's size in the loading mode that a memory limit chooses, and watch the memory.

python benchmarks/modes.py --memory 8GB [--steps 8] [--device cuda] [--json]

The folder holds zeros without taking disk space (tests/support/release.py), so the numbers are those of memory and
loading. Times of products of zeros are lower than those of real weights. The allocator of the GPU is limited to
`--memory`, so a mode that needs more fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import smalti
from smalti.cli.output import peak_memory_mb
from smalti.errors import SmaltiError
from smalti.runtime.memory import parse_memory

SUPPORT = Path(__file__).parents[1] / "tests" / "support"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", default="8GB", help="limit, such as 8GB")
    parser.add_argument("--steps", type=int, default=8, help="number of steps")
    parser.add_argument("--size", type=int, default=1024, help="side in pixels")
    parser.add_argument("--cut", action="store_true", help="a model of the same parts cut to a test's size")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    report = measure(options)
    print(
        json.dumps(report) if options.json else "\n".join(f"{key}: {value}" for key, value in report.items())
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the mode, the seconds of loading and drawing, and the peak memory."""
    sys.path.insert(0, str(SUPPORT))
    from release import CUT, CUT_VQ, write_release

    if options.device.startswith("cuda"):
        total = torch.cuda.get_device_properties(options.device).total_memory
        torch.cuda.set_per_process_memory_fraction(
            min(1.0, parse_memory(options.memory) / total), options.device
        )
    with tempfile.TemporaryDirectory() as folder:
        path = write_release(Path(folder), **({"config": CUT, "vq": CUT_VQ} if options.cut else {}))
        started = time.perf_counter()
        pipe = smalti.load(path, device=options.device, memory=options.memory)
        loaded = time.perf_counter()
        result = pipe(
            "a red circle",
            seed=0,
            num_inference_steps=options.steps,
            guidance_scale=5.0,
            height=options.size,
            width=options.size,
        )
    return {
        "memory": options.memory,
        "mode": str(pipe.components.mode),
        "load_seconds": round(loaded - started, 2),
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "peak_memory_mb": peak_memory_mb(options.device),
    }


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"benchmark: {error}")
