"""Measure how many captioned scenes one core draws in a second.

python benchmarks/scenes.py [--size 256] [--scenes 1000] [--json]
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from smalti.worlds.scenes.world import Scenes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument("--scenes", type=int, default=1000, help="number of scenes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scenes = Scenes(seed=0, size=options.size)
    for index in range(20):
        scenes[index]
    started = time.perf_counter()
    for index in range(options.scenes):
        scenes[index]
    seconds = time.perf_counter() - started
    result = {
        "size": options.size,
        "scenes": options.scenes,
        "seconds": round(seconds, 3),
        "scenes_per_second": round(options.scenes / seconds, 1),
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{'size':>6} {'scenes':>8} {'seconds':>9} {'scenes/s':>9}")
        print(f"{options.size:>6} {options.scenes:>8} {seconds:>9.2f} {result['scenes_per_second']:>9.1f}")


if __name__ == "__main__":
    main()
