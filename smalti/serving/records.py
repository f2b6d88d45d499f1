"""Jobs and results as clients read them."""

from __future__ import annotations

from typing import Any

import torch

from smalti.editing.edit import PreparedEdit
from smalti.serving.jobs import Job


def size_text(size: tuple[int, int]) -> str:
    """Return (height, width) as "WIDTHxHEIGHT".

    Example:
        >>> size_text((480, 640))
        '640x480'
    """
    return f"{size[1]}x{size[0]}"


def bits(grid: torch.Tensor) -> list[str]:
    """Return a grid (h, w) bool as rows of "0" and "1".

    Example:
        >>> bits(torch.tensor([[True, False], [False, False]]))
        ['10', '00']
    """
    return ["".join("1" if cell else "0" for cell in row) for row in grid.tolist()]


def describe_region(prepared: PreparedEdit) -> dict[str, Any]:
    """Return what an edit selected: the grid, the image's place on the canvas, and how many tokens it is."""
    tokens, canvas = prepared.region.tokens, prepared.work.canvas
    return {
        "grid": list(tokens.shape),
        "rows": bits(tokens),
        "chosen": int(tokens.sum()),
        "tokens": tokens.numel(),
        "canvas": list(canvas.canvas),
        "place": list(canvas.place),
        "size": list(canvas.size),
    }


def describe_job(job: Job, position: int | None) -> dict[str, Any]:
    """Return a job; `position` is the number of jobs before it in the queue, or None if it does not wait."""
    task = job.task
    return {
        "id": job.id,
        "object": "job",
        "operation": job.operation,
        "model": task.model,
        "state": job.state,
        "position": position,
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "n": len(task.seeds),
        "seeds": list(task.seeds),
        "prompt": task.prompt,
        "negative_prompt": task.negative_prompt,
        "request": job.request,
        "settings": task.settings.to_dict(),
        "drawn_size": size_text(task.settings.size),
        "progress": {
            "step": job.steps_done,
            "steps": task.settings.num_inference_steps,
            "images": sum(entry is not None for entry in job.results),
        },
        "source": job.source,
        "mask": job.mask,
        "region": job.region,
        "results": [entry for entry in job.results if entry is not None],
        "error": None if job.error is None else job.error.body()["error"],
        "ignored": job.ignored,
        "warnings": job.warnings,
    }
