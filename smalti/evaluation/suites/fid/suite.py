"""The suite `fid`: FID or CLIP-FID of drawn images from real ones, MJHQ-30K's for example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from smalti.common.checks import check_choice, check_whole
from smalti.errors import SmaltiError
from smalti.evaluation.category_layout import CategoryLayout
from smalti.evaluation.folder import as_rgb, open_images
from smalti.evaluation.frechet import Gaussian, fit, frechet_distance
from smalti.evaluation.markdown import score_table
from smalti.evaluation.prompts import evenly
from smalti.evaluation.ranks import gather, own_device, share
from smalti.evaluation.request import Request
from smalti.evaluation.suites.fid import features as seen
from smalti.evaluation.suites.fid import reference as real_images
from smalti.evaluation.suites.fid.spread import DESCRIPTION, spread_interval
from smalti.evaluation.weights import find_weights, revision_of
from smalti.training.distribution import first_alone, rank

_BATCH = 16


@dataclass(frozen=True)
class Fid(CategoryLayout):
    """Measure the Fréchet distance of images from real ones, on features of FID's Inception or of a CLIP.

    Distances can be compared only with the same features, resize, size and number of images; the report has all of
    them. CLIP needs the extra `benchmarks`; Inception needs weights that `tools/convert_scorer.py inception` has
    written. Without `--prompts`, prompts are those of MJHQ-30K's folder.

    Attributes:
        reference: folder of MJHQ-30K, another folder of real images, or a file of statistics.
        features: "inception" for FID, "clip" for CLIP-FID.
        weights: safetensors file of Inception; or folder or hub id of a CLIP, such as openai/clip-vit-base-patch32.
        resize: resize before Inception: "clean" (clean-fid), "bilinear" (pytorch-fid) or "tensorflow" (torch-fidelity);
            empty means "clean" for Inception, and nothing else for CLIP, which has its own.
        statistics: file into which statistics of the real images are written, which can be a reference later.
        resamples: number of resampled sets for the interval; 0 means no interval.
        device: device of the network; with torchrun "cuda" is each process's own GPU.
    """

    reference: str = ""
    features: str = "inception"
    weights: str = ""
    resize: str = ""
    statistics: str = ""
    resamples: int = 20
    device: str = "cpu"
    controls: ClassVar[frozenset[str]] = CategoryLayout.controls - {"shuffled"}
    folder_takes_prompts: ClassVar[bool] = False
    count: ClassVar[int] = 30000
    least: ClassVar[int] = 2
    images_per_prompt: ClassVar[int] = 1
    scoring_seconds: ClassVar[float | None] = 0.05

    def __post_init__(self) -> None:
        check_choice("features", self.features, seen.FEATURES)
        if self.resize and self.features == "clip":
            raise SmaltiError("resize is Inception's: leave it out with features=clip", argument="resize")
        check_choice("resize", self.resize or "clean", seen.RESIZES)
        check_whole("resamples", self.resamples, 0)

    def prompts(self, count: int, seed: int) -> list[Any]:
        """Return `count` prompts of MJHQ-30K's folder, evenly chosen; all if it has no more than `Fid.count`."""
        every = real_images.mjhq_prompts(Path(self.reference)) if self.reference else None
        if every is None:
            return super().prompts(count, seed)
        if count == self.count and len(every) <= count:
            return every
        if count > len(every):
            raise SmaltiError(
                f"--images must be those of at most {len(every)} prompts, not {count}", argument="--images"
            )
        return evenly(every, count)

    def read_folder(self, folder: Path, request: Request) -> tuple[list[Any], Callable[[int], Any]]:
        """Return a prompt for each image of a folder, with its category, and a function that reads it."""
        tree = real_images.read_tree(folder)
        # GenEval's folders are numbers and no categories.
        named = [name if name and name != "samples" else None for name in tree.categories]
        prompts = [{"prompt": "", "category": name} if name else {"prompt": ""} for name in named]
        return prompts, lambda index: open_images([tree.files[index]])

    def score(self, prompt: Any, sample: Any) -> dict[str, Any]:
        """Return the category of a prompt, the sizes and the features of its images."""
        images = [as_rgb(image) for image in sample]
        return {
            "category": prompt.get("category"),
            "sizes": [list(image.size) for image in images],
            "features": [seen.encode(row) for row in self._extractor()(images)],
        }

    def summarize(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the distance, an interval, the distance of each category, and the numbers and sizes of images."""
        name = "fid" if self.features == "inception" else "clip_fid"
        groups = [seen.decode(row["features"]) for row in rows]
        real, count, by_category = self._reference()
        drawn = fit(torch.cat(groups))
        distance = frechet_distance(drawn, real)
        scores: dict[str, Any] = {name: round(distance, 4)}
        if self.resamples:
            bounds = spread_interval(groups, real, distance, self.resamples)
            scores["intervals"] = {name: bounds}
        categories = {}
        for category in sorted({row["category"] for row in rows} & by_category.keys(), key=str):
            own = [group for row, group in zip(rows, groups, strict=True) if row["category"] == category]
            if sum(map(len, own)) >= 2 and len(by_category[category]) >= 2:
                other = by_category[category]
                categories[str(category)] = {
                    "distance": round(frechet_distance(fit(torch.cat(own)), fit(other)), 4),
                    "images": sum(map(len, own)),
                    "reference_images": len(other),
                }
        sizes = sorted({tuple(size) for row in rows for size in row["sizes"]})
        return {
            **scores,
            **({"categories": categories} if categories else {}),
            "images": sum(map(len, groups)),
            "reference_images": count,
            "sizes": [list(size) for size in sizes],
        }

    def describe(self) -> dict[str, Any]:
        """Return the network, the resize and the package whose resize it is, the reference and the interval."""
        if not self.reference:
            raise SmaltiError(
                "reference must be a folder of real images or a file of statistics: --set reference=mjhq30k",
                argument="reference",
            )
        self._extractor()
        return {
            **self._told(),
            "implementation": "smalti",
            "distance": "trace by singular values of the roots, float64, covariance over N − 1",
        }

    def interval_settings(self) -> dict[str, Any]:
        """Return how the interval of the distance comes about."""
        return {**DESCRIPTION, "samples": self.resamples}

    def table(self, scores: dict[str, Any]) -> str:
        """Return a Markdown table of the distances, a category a line."""
        flat = {name: value for name, value in scores.items() if name not in ("categories", "sizes")}
        for name, one in scores.get("categories", {}).items():
            flat[f"category {name}"] = one["distance"]
        sizes = ", ".join(f"{width}×{height}" for width, height in scores["sizes"])
        return score_table({**flat, "size of images": sizes})

    def _extractor(self) -> seen.Extractor:
        """Return the function from images to features."""
        return seen.find_extractor(
            self.features, self.weights, self.resize or "clean", own_device(self.device)
        )

    def _told(self) -> dict[str, Any]:
        """Return what decides about features."""
        if self.features == "clip":
            found = find_weights("weights", self.weights, seen.CLIP_EXAMPLE)
            return {
                "name": self.weights,
                "weights_revision": revision_of(self.weights, found),
                "resize": "shorter side, centre cut out, bicubic",
            }
        return {
            "name": "Inception of FID",
            "weights_sha256": seen.weights_hash(Path(self.weights)),
            "resize": self.resize or "clean",
            "resize_as_in": seen.PACKAGES[self.resize or "clean"],
        }

    def _reference(self) -> tuple[Gaussian, int, dict[Any, torch.Tensor]]:
        """Return the Gaussian of the real images, their number, and their features by category.

        Several processes share the images. A file of statistics has no categories.
        """
        place = Path(self.reference)
        if place.suffix == ".safetensors":
            return *real_images.read_statistics(place, self._told()), {}
        tree = real_images.read_tree(place)
        own, rows = list(share(len(tree.files))), []
        for first in range(0, len(own), _BATCH):
            part = own[first : first + _BATCH]
            found = self._extractor()(open_images([tree.files[index] for index in part]))
            rows += [(index, seen.encode(row)) for index, row in zip(part, found, strict=True)]
        every = seen.decode(gather(rows))
        real = fit(every)
        if self.statistics:
            with first_alone():
                if rank() == 0:
                    real_images.write_statistics(Path(self.statistics), real, len(every), self._told())
        places: dict[Any, list[int]] = {}
        for index, category in enumerate(tree.categories):
            if category is not None:
                places.setdefault(category, []).append(index)
        return real, len(every), {name: every[chosen] for name, chosen in places.items()}
