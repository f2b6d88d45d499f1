"""What the suites with a score for each image share: rows, means by category, intervals, tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from smalti.evaluation.benchmark import Benchmark
from smalti.evaluation.bootstrap import intervals
from smalti.evaluation.folder import as_rgb
from smalti.evaluation.markdown import score_table


@dataclass(frozen=True)
class Preference(Benchmark):
    """A suite whose network gives a number to an image and its prompt; a subclass needs `rate` and `describe`."""

    images_per_prompt: ClassVar[int] = 1
    scoring_seconds: ClassVar[float | None] = 0.05

    @abstractmethod
    def rate(self, text: str, images: Sequence[Image.Image]) -> list[float]:
        """Return the score of each image of a text; images are in RGB."""

    def score(self, prompt: Any, sample: Any) -> dict[str, Any]:
        """Return the category of a prompt and the score of each of its images."""
        category = prompt.get("category", prompt.get("tag"))
        return {
            "category": None if category is None else str(category),
            "scores": self.rate(prompt["prompt"], [as_rgb(image) for image in sample]),
        }

    def summarize(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the mean over images, that of each category, and intervals of these.

        "mean" is over all images. "mean_of_categories" counts each category once. "categories" has the mean, the
        interval and the number of images of each.
        """
        return summarize_ratings(rows)

    def table(self, scores: dict[str, Any]) -> str:
        """Return a Markdown table of the scores with their intervals, a category a line."""
        return rating_table(scores)


def summarize_ratings(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of rows with "category" and "scores", as `Preference.summarize` describes them.

    Example:
        >>> rows = [{"category": "anime", "scores": [1.0]}, {"category": "photo", "scores": [3.0]}]
        >>> summarize_ratings(rows)["mean_of_categories"]
        2.0
    """
    every = [row["scores"] for row in rows]
    grouped: dict[str, list[list[float]]] = {}
    for row in rows:
        if row["category"] is not None:
            grouped.setdefault(row["category"], []).append(row["scores"])
    scores: dict[str, Any] = {"mean": _mean(every)}
    bounds = {"mean": intervals({"mean": every})["mean"]}
    if grouped:
        names = sorted(grouped)
        found = intervals({f"category {name}": grouped[name] for name in names})
        means = {name: _mean(grouped[name]) for name in names}
        scores["mean_of_categories"] = round(sum(means.values()) / len(means), 4)
        bounds["mean_of_categories"] = found["mean"]
        scores["categories"] = {
            name: {
                "mean": means[name],
                "interval": found[f"category {name}"],
                "images": sum(map(len, grouped[name])),
            }
            for name in names
        }
    return {**scores, "images": sum(map(len, every)), "intervals": bounds}


def rating_table(scores: dict[str, Any]) -> str:
    """Return a Markdown table of the scores, a category a line."""
    flat = {name: value for name, value in scores.items() if name not in ("categories", "intervals")}
    bounds = dict(scores.get("intervals", {}))
    for name, one in scores.get("categories", {}).items():
        flat[f"category {name}"] = one["mean"]
        if "interval" in one:
            bounds[f"category {name}"] = one["interval"]
    return score_table({**flat, "intervals": bounds})


def _mean(groups: Sequence[Sequence[float]]) -> float:
    """Return the mean over all images."""
    return round(sum(map(sum, groups)) / sum(map(len, groups)), 4)
