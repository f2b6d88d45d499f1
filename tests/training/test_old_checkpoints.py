"""Checkpoints that earlier versions wrote, kept in `checkpoints/`: they resume, and those of later versions say so.

Each is of the same three steps of `counting_task`. A new format adds a folder here and keeps the others.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from counting_task import STEPS, make_config, run
from trainings import losses

from smalti.errors import SmaltiError
from smalti.training.launching import spread
from smalti.training.state import FORMAT, latest_checkpoint, read_state

KEPT = Path(__file__).parent / "checkpoints"


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """Losses of a run of three steps that goes on to five, both by this version."""
    config = make_config(str(tmp_path_factory.mktemp("old") / "run"), 1, 1)
    run(config.model_copy(update={"loop": config.loop.model_copy(update={"steps": 3})}))
    run(config)
    return losses(config.output)


@pytest.mark.parametrize("name", sorted(path.name for path in KEPT.iterdir()))
def test_a_checkpoint_of_an_earlier_format_resumes(
    name: str, tmp_path: Path, today: list[tuple[int, float]]
) -> None:
    shutil.copytree(KEPT / name, tmp_path / "run")
    assert spread(run, make_config(str(tmp_path / "run"), 1, 1))["step"] == STEPS
    found = losses(str(tmp_path / "run"))
    assert [step for step, _ in found] == [4, 5]
    for (_, loss), (_, expected) in zip(found, today[3:], strict=True):
        assert loss == pytest.approx(expected, abs=1e-5)
    checkpoint = latest_checkpoint(tmp_path / "run")
    assert checkpoint is not None and read_state(checkpoint)["format"] == FORMAT


def test_every_format_is_kept() -> None:
    formats = {read_state(path)["format"] for path in KEPT.glob("format-*/checkpoint-*")}
    assert formats == set(range(1, FORMAT + 1))


@pytest.mark.parametrize("version", [FORMAT + 1, "2", 1.5, -1, None, True])
def test_a_checkpoint_of_a_later_format_is_refused_in_one_line(tmp_path: Path, version: object) -> None:
    shutil.copytree(KEPT / "format-1", tmp_path / "run")
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps({**state, "format": version}))
    before = sorted(path.read_bytes() for path in checkpoint.rglob("*") if path.is_file())
    with pytest.raises(SmaltiError, match=r"checkpoint-00000003 cannot be resumed: its format is ") as caught:
        spread(run, make_config(str(tmp_path / "run"), 1, 1))
    assert "\n" not in str(caught.value) and len(str(caught.value)) - len(str(tmp_path)) < 300
    assert before == sorted(path.read_bytes() for path in checkpoint.rglob("*") if path.is_file())
