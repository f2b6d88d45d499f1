"""Two tiny trainings: their configurations, and what tests read of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import DenoiserTask, train_denoiser
from smalti.training.preparing import prepare
from smalti.training.reading import load_config
from smalti.training.saving import Saver

TOKENIZER = {
    "output": "tokenizer",
    "data": {"size": 32},
    "model": {
        "ch": 8,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "z_channels": 8,
        "embed_dim": 4,
        "codebook_size": 32,
        "patch_size": 4,
        "norm": "position",
    },
    "loss": {"quantize_after": 2},
    "loop": {"steps": 6, "batch_size": 2, "log_every": 1, "preview_every": 6, "checkpoint_every": 3},
}
DENOISER = {
    "output": "denoiser",
    "tokenizer": "tokenizer/model",
    "data": {"size": 32, "seed": 1},
    "cache": {"path": "cache", "samples": 10},
    "text": {"vocab_size": 400, "captions": 10},
    "model": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 24,
        "image_positions": "axial",
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
        "prompt": {"template": "{prompt}<|im_end|>{slots}"},
    },
    "loop": {"steps": 6, "batch_size": 4, "log_every": 1, "preview_every": 6, "checkpoint_every": 3},
}


def write(name: str, values: dict) -> str:
    Path(name).write_text(yaml.safe_dump(values))
    return name


def make_task(*overrides: str) -> DenoiserTask:
    config = load_config(DenoiserRunConfig, "denoiser.yaml", list(overrides))
    return DenoiserTask(config, prepare(config))


def train_stopped_once(config: DenoiserRunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a training that is interrupted after its first checkpoint, and resume it."""
    real = Saver.save

    def dies_afterwards(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(Saver, "save", dies_afterwards)
        with pytest.raises(KeyboardInterrupt):
            train_denoiser(config)
    train_denoiser(config)


def losses(run: str) -> list[tuple[int, float]]:
    entries = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]


def is_message(line: str) -> bool:
    """Return whether a line of standard error is a message of Smalti, other than the note on the memory."""
    return line.startswith("smalti:") and not line.startswith("smalti: memory on")
