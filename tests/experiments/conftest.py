"""The experiments' folder on the path, and a comparison of paradigms at a tiny size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "experiments"))

from paradigms.training import PARADIGMS, Budget, PlainTask, make_task  # noqa: E402

MODEL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
}


def tiny_budget(folder: Path) -> Budget:
    return Budget(
        folder,
        str(ROOT / "smalti/models/scenes"),
        {"kind": "scenes", "size": 64, "seed": 1, "lattice": 8},
        distinct=12,
        images=16,
        batch=4,
        model=MODEL,
        overrides=("optimizer.warmup_steps=1", "loop.precision=float32"),
    )


@pytest.fixture(scope="session")
def budget(tmp_path_factory: pytest.TempPathFactory) -> Budget:
    made = tiny_budget(tmp_path_factory.mktemp("paradigms"))
    made.make_shards()
    return made


@pytest.fixture(scope="session")
def tasks(budget: Budget) -> dict[str, PlainTask]:
    """Paradigms with their starting weights."""
    return {paradigm: make_task(budget, paradigm, 0) for paradigm in PARADIGMS}
