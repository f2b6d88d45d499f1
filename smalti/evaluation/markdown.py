"""Reports of benchmarks as Markdown: a table of scores with intervals, and everything that decides about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def score_table(scores: Mapping[str, Any]) -> str:
    """Return a Markdown table with a row for each score, and its interval if it has one.

    Args:
        scores: scores by name; "intervals" holds [low, high] by the same names. Lists and other objects are left out.

    Example:
        >>> print(score_table({"mean": 0.5, "images": 8, "intervals": {"mean": [0.25, 0.75]}}))
        | score | value | 95 % interval |
        | --- | --- | --- |
        | mean | 0.5000 | 0.2500 to 0.7500 |
        | images | 8 | – |
    """
    bounds = scores.get("intervals", {})
    lines = ["| score | value | 95 % interval |", "| --- | --- | --- |"]
    for name, value in scores.items():
        if isinstance(value, dict | list):
            continue
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        interval = " to ".join(f"{bound:.4f}" for bound in bounds[name]) if name in bounds else "–"
        lines.append(f"| {name} | {shown} | {interval} |")
    return "\n".join(lines)


def report_page(scores: Mapping[str, Any], metadata: Mapping[str, Any], table: str) -> str:
    """Return a report: the scores, and below them what was measured and how.

    Args:
        scores: scores of a run.
        metadata: metadata of the run.
        table: the suite's table of the scores.
    """
    lines = [f"# {metadata['suite']}", ""]
    if metadata.get("subset"):
        lines += [f"A subset of {metadata['number_of_prompts']} prompts, evenly chosen from the file.", ""]
    if not table.startswith("|"):
        table = f"```text\n{table}\n```"
    lines += [table, "", "| setting | value |", "| --- | --- |"]
    for name, value in metadata.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"| {name} | {shown.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"
