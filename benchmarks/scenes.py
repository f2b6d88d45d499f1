"""Measure how many captioned scenes one core draws in a second: flat shapes, or things from a sprite archive.

python benchmarks/scenes.py [--archive FOLDER] [--lattice 16] [--size 256] [--scenes 1000] [--json]
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from smalti.worlds.objects.world import Objects
from smalti.worlds.scenes.world import Scenes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archive", help="sprite archive, or its folder; scenes of flat shapes without it")
    parser.add_argument("--lattice", type=int, help="lattice cells per side")
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument("--scenes", type=int, default=1000, help="number of scenes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shared = dict(seed=0, size=options.size, lattice=options.lattice)
    scenes = Objects(options.archive, **shared) if options.archive else Scenes(**shared)
    for index in range(20):
        scenes[index]
    # The time of the process is what a core would need that nothing else uses.
    started, busy = time.perf_counter(), time.process_time()
    for index in range(20, 20 + options.scenes):
        scenes[index]
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    result = {
        "size": options.size,
        "scenes": options.scenes,
        "seconds": round(seconds, 3),
        "scenes_per_second": round(options.scenes / seconds, 1),
        "scenes_per_cpu_second": round(options.scenes / busy, 1),
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{'size':>6} {'scenes':>8} {'seconds':>9} {'scenes/s':>9} {'per CPU s':>10}")
        print(
            f"{options.size:>6} {options.scenes:>8} {seconds:>9.2f} {result['scenes_per_second']:>9.1f} "
            f"{result['scenes_per_cpu_second']:>10.1f}"
        )


if __name__ == "__main__":
    main()
