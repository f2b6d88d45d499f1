"""DPG-Bench's published script, transcribed: the question file, the scores of a prompt, and the totals.

It keeps the shape of `compute_dpg_bench.py`, without images and pandas; the answers come from a function. With
`quirks=False` its three faults are mended and nothing else.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any


def prepare(path: Path, quirks: bool) -> dict[str, dict[str, Any]]:
    question_dict: dict[str, dict[str, Any]] = {}
    previous_id = ""
    with open(path, newline="") as file:
        for i, line in enumerate(csv.DictReader(file)):
            if i == 0 and quirks:
                continue
            current_id = line["item_id"]
            qid = int(line["proposition_id"])
            dependency = [int(d.strip()) for d in line["dependency"].split(",")]
            if current_id == previous_id:
                question_dict[current_id]["qid2tuple"][qid] = line["tuple"]
                question_dict[current_id]["qid2dependency"][qid] = dependency
            else:
                question_dict[current_id] = {
                    "qid2tuple": {qid: line["tuple"]},
                    "qid2dependency": {qid: dependency},
                }
            previous_id = current_id
    return question_dict


def one_sample(
    value: dict[str, Any], vqa: Callable[[int, int], str], pictures: int, quirks: bool
) -> tuple[float, list[dict[int, float]]]:
    scores, counted = [], []
    for crop in range(pictures):
        qid2scores = {qid: float(vqa(crop, qid) == "yes") for qid in value["qid2tuple"]}
        qid2scores_orig = qid2scores.copy()
        for qid, parent_ids in value["qid2dependency"].items():
            any_parent_answered_no = False
            for parent_id in parent_ids:
                if parent_id == 0:
                    continue
                if qid2scores[parent_id] == 0:
                    any_parent_answered_no = True
                    break
            if any_parent_answered_no:
                qid2scores[qid] = 0
        scores.append(sum(qid2scores.values()) / len(qid2scores))
        counted.append(qid2scores_orig if quirks else qid2scores)
    return sum(scores) / len(scores), (counted[-1:] if quirks else counted)


def benchmark(path: Path, vqa: Callable[[str, int, int], str], pictures: int, quirks: bool) -> dict[str, Any]:
    """Return `dpg`, the broad categories, `details` and `prompts`; `vqa` takes the prompt, the image, the question."""
    local_scores, categories = [], defaultdict(list)
    for name, value in prepare(path, quirks).items():
        try:
            score, counted = one_sample(
                value, lambda crop, qid, name=name: vqa(name, crop, qid), pictures, quirks
            )
        except Exception:
            if quirks:
                continue
            raise
        local_scores.append(score)
        for scores in counted:
            for qid in scores:
                categories[value["qid2tuple"][qid].split("(")[0].strip()].append(scores[qid])
    broad = defaultdict(list)
    for category, values in categories.items():
        broad[category.split("-")[0].strip()].extend(values)
    return {
        "dpg": sum(local_scores) / len(local_scores) * 100,
        **{name: sum(values) / len(values) * 100 for name, values in broad.items()},
        "details": {name: sum(values) / len(values) * 100 for name, values in categories.items()},
        "prompts": len(local_scores),
    }
