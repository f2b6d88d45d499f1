"""Runs of FID on six features that need no network, with a small folder in MJHQ-30K's layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import smalti
from smalti.evaluation.request import Request
from smalti.evaluation.run import evaluate
from smalti.evaluation.subject import Subject
from smalti.evaluation.suites.fid import suite
from smalti.evaluation.suites.fid.suite import Fid


def means(images: Sequence[Image.Image]) -> torch.Tensor:
    """Mean and deviation of each colour: six features."""
    values = torch.stack([torch.from_numpy(np.array(image)).float().flatten(0, 1) for image in images])
    return torch.cat([values.mean(dim=1), values.std(dim=1)], dim=1)


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite.Fid, "_extractor", lambda self: means)
    monkeypatch.setattr(suite.Fid, "_told", lambda self: {"name": "means", "resize": self.resize or "clean"})


def write_mjhq(folder: Path) -> Path:
    random, told = np.random.default_rng(0), {}
    for category in ("animals", "food", "people"):
        (folder / "mjhq30k_imgs" / category).mkdir(parents=True)
        for number in range(4):
            name = f"{category[0]}{number}"
            told[name] = {"category": category, "prompt": f"{category} {number}"}
            noise = random.normal(random.uniform(60, 190, 3), 30, (16, 16, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(folder / "mjhq30k_imgs" / category / f"{name}.png")
    (folder / "meta_data.json").write_text(json.dumps(told))
    return folder


def run_fid(folder: str, reference: str, model: str) -> dict[str, Any]:
    """Return the report of a run over half of the prompts, in a process of its own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch)
        pipe = smalti.load(model)
        subject = Subject.of(pipe, pipe.settings.replaced(num_inference_steps=1))
        found = evaluate(Fid(reference=reference, resamples=4), Request(images=6, save=Path(folder)), subject)
    return {**found.scores, **found.metadata}
