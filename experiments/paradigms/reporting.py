"""The table and the plot of the comparison."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from paradigms.drawing import VARIANTS

Row = dict[str, Any]
_COLORS = dict(zip(VARIANTS, ("tab:blue", "tab:cyan", "tab:red", "tab:green", "tab:olive"), strict=True))


def table(rows: list[Row]) -> str:
    """Return a Markdown table, a row a point."""
    lines = [
        "| variant | steps | passes | score, % | lowest to highest | ms at batch 1 | ms at the best batch | best batch "
        "| ms for pixels |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['variant']} | {row['steps'] or ''} | {row['passes']:g} | {100 * row['score']:.1f} "
            f"| {100 * row['lowest']:.1f} to {100 * row['highest']:.1f} | {_ms(row, 'seconds_1')} "
            f"| {_ms(row, 'seconds_best')} | {row.get('best_batch', '')} | {_ms(row, 'decoding_best')} |"
        )
    return "\n".join(lines) + "\n"


def settings_table(rows: list[Row]) -> str:
    """Return a Markdown table of the settings that the search found."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        text = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
        found.setdefault((row["variant"], text), []).append(row["steps"])
    lines = ["| variant | steps | settings |", "| --- | --- | --- |"]
    for (variant, text), steps in found.items():
        lines.append(f"| {variant} | {', '.join(str(one) for one in steps if one)} | {text} |")
    return "\n".join(lines) + "\n"


def _ms(row: Row, key: str) -> str:
    return "" if row.get(key) is None else f"{1000 * row[key]:.1f}"


def plot(rows: list[Row], path: Path) -> None:
    """Plot the score against passes, seconds at batch 1 and seconds at the best batch, pixels included."""
    try:
        import matplotlib
    except ImportError:
        print(f"{path} needs matplotlib: pip install 'smalti[plots]'", file=sys.stderr)
        return
    matplotlib.use("agg")
    from matplotlib import pyplot

    costs = {
        "passes of an image (guidance counts twice)": lambda row: row["passes"],
        "seconds an image, batch 1": lambda row: _total(row, "1"),
        "seconds an image, best batch": lambda row: _total(row, "best"),
    }
    figure, axes = pyplot.subplots(1, len(costs), figsize=(13, 4.4), sharey=True, layout="tight")
    for axis, (label, cost) in zip(axes, costs.items(), strict=True):
        for name in VARIANTS:
            own = [row for row in rows if row["variant"] == name and cost(row) is not None]
            if not own:
                continue
            x, y = [cost(row) for row in own], [row["score"] for row in own]
            low, high = [row["lowest"] for row in own], [row["highest"] for row in own]
            axis.plot(x, y, "o-", markersize=4, color=_COLORS[name], label=name)
            axis.vlines(x, low, high, color=_COLORS[name], alpha=0.4)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("scenes score")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _total(row: Row, batch: str) -> float | None:
    drawing = row.get(f"seconds_{batch}")
    return None if drawing is None else drawing + row[f"decoding_{batch}"]
