"""Measure how long three-dimensional models take: reading one, a view of it, and a view in another colour.

python benchmarks/meshes.py PACKAGE [--every 8] [--json]

PACKAGE is the file of Debian's `sweethome3d-furniture`. Times are CPU milliseconds of one thread, so other programs do
not count. A view is what the camera sees, with colours; a recolored view reuses what the camera sees.
"""

from __future__ import annotations

import argparse
import json
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from smalti.worlds.objects.colors import COLOR_NAMES
from smalti.worlds.objects.preparing.debian import package_files
from smalti.worlds.objects.preparing.furniture import Furniture, load_model, read_furniture
from smalti.worlds.objects.preparing.recoloring import main_materials, recolored
from smalti.worlds.objects.preparing.record import CATALOGS, CatalogEntry, read_catalog
from smalti.worlds.objects.preparing.rendering import look, paint

_AZIMUTHS = (0, 120, 240)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path, help="path of the .deb file")
    parser.add_argument("--every", type=int, default=8, help="measure one of so many models")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.every < 1:
        parser.error(f"--every must be at least 1, not {options.every}")
    torch.set_num_threads(1)
    report = measure(options.package, options.every)
    if options.json:
        print(json.dumps(report))
        return
    print(f"{report['models']} models, CPU milliseconds of one thread\n")
    print("what            median   90 %    mean     max")
    for name, times in report["milliseconds"].items():
        print(f"{name:<14}" + "".join(f"{value:>8.1f}" for value in times.values()))


def measure(package: Path, every: int) -> dict:
    """Return the times over one of `every` models of the catalogue."""
    times: dict[str, list[float]] = {"reading": [], "view": [], "recolored view": []}
    count = 0
    for archive, furniture, entry in models(package, every):
        count += 1
        start = time.process_time()
        model = load_model(archive, furniture, entry.entry, upright=entry.upright)
        times["reading"].append(time.process_time() - start)
        for azimuth in _AZIMUTHS:
            start = time.process_time()
            view = look(model, azimuth)
            paint(model, view)
            times["view"].append(time.process_time() - start)
        materials = main_materials(model, [view])
        start = time.process_time()
        recolored(model, view, materials, COLOR_NAMES[count % len(COLOR_NAMES)])
        times["recolored view"].append(time.process_time() - start)
    return {"models": count, "milliseconds": {name: summary(found) for name, found in times.items()}}


def models(package: Path, every: int) -> Iterator[tuple[zipfile.ZipFile, Furniture, CatalogEntry]]:
    """Yield one of `every` models, with its archive and its entry of the catalogue."""
    chosen = {entry.entry: entry for entry in read_catalog(CATALOGS / "furniture.jsonl")[::every]}
    for path, data in package_files(package, lambda path: path.endswith(".sh3f")):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for furniture in read_furniture(archive, path):
                entry = chosen.get(f"{PurePosixPath(path).stem}/{furniture.model}")
                if entry is not None:
                    yield archive, furniture, entry


def summary(seconds: list[float]) -> dict[str, float]:
    """Return the median, the 90th percentile, the mean and the largest of times, in milliseconds."""
    values = 1000 * np.array(seconds)
    return {
        "median": float(np.median(values)),
        "p90": float(np.quantile(values, 0.9)),
        "mean": float(values.mean()),
        "max": float(values.max()),
    }


if __name__ == "__main__":
    main()
