"""GenEval's official functions, transcribed: verdicts on detections, relative positions, and the summary.

They keep the shape of `evaluate_images.py` and `summary_scores.py`, without files, networks and pandas.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def official_position(obj_a: np.ndarray, obj_b: np.ndarray) -> set[str]:
    boxes = np.array([obj_a, obj_b])[:, :4].reshape(2, 2, 2)
    center_a, center_b = boxes.mean(axis=-2)
    dim_a, dim_b = np.abs(np.diff(boxes, axis=-2))[..., 0, :]
    offset = center_a - center_b
    revised = np.maximum(np.abs(offset) - 0.1 * (dim_a + dim_b), 0) * np.sign(offset)
    if np.all(np.abs(revised) < 1e-3):
        return set()
    dx, dy = revised / np.linalg.norm(offset)
    relations = set()
    if dx < -0.5:
        relations.add("left of")
    if dx > 0.5:
        relations.add("right of")
    if dy < -0.5:
        relations.add("above")
    if dy > 0.5:
        relations.add("below")
    return relations


def official_objects(boxes: dict[str, np.ndarray], tag: str) -> dict[str, list[np.ndarray]]:
    """`boxes`: (N, 5) of each class. Rows are left, top, right, bottom, score."""
    threshold = 0.3 if tag != "counting" else 0.9
    detected = {}
    for name, rows in boxes.items():
        ordering = np.argsort(rows[:, 4])[::-1]
        ordering = ordering[rows[ordering, 4] > threshold]
        ordering = ordering[:16].tolist()
        if ordering:
            detected[name] = [rows[index] for index in ordering]
    return detected


def official_verdict(objects: dict[str, list[np.ndarray]], metadata: dict[str, Any], color_of: Any) -> bool:
    """`color_of` maps a box to the name of its colour."""
    correct = True
    matched_groups: list[list[np.ndarray] | None] = []
    for req in metadata.get("include", []):
        name = req["class"]
        matched = True
        found_objects = objects.get(name, [])[: req["count"]]
        if len(found_objects) < req["count"]:
            correct = matched = False
        else:
            if "color" in req:
                colors = [color_of(box) for box in found_objects]
                if colors.count(req["color"]) < req["count"]:
                    correct = matched = False
            if "position" in req and matched:
                expected, target_group = req["position"]
                if matched_groups[target_group] is None:
                    correct = matched = False
                else:
                    for obj in found_objects:
                        for target in matched_groups[target_group]:
                            if expected not in official_position(obj, target):
                                correct = matched = False
                                break
                        if not matched:
                            break
        matched_groups.append(found_objects if matched else None)
    for req in metadata.get("exclude", []):
        if len(objects.get(req["class"], [])) >= req["count"]:
            correct = False
    return correct


def official_summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what `summary_scores.py` prints, from lines with `tag`, `metadata` and `correct`."""
    tags = list(dict.fromkeys(result["tag"] for result in results))
    tasks = {tag: np.mean([result["correct"] for result in results if result["tag"] == tag]) for tag in tags}
    prompts = list(dict.fromkeys(result["metadata"] for result in results))
    any_correct = [any(r["correct"] for r in results if r["metadata"] == prompt) for prompt in prompts]
    return {
        **tasks,
        "mean": np.mean(list(tasks.values())),
        "correct_images": np.mean([result["correct"] for result in results]),
        "correct_prompts": np.mean(any_correct),
        "images": len(results),
        "prompts": len(prompts),
    }
