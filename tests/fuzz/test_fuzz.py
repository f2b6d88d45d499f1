"""A few bad inputs of each family: none ends in a traceback, hangs, or is answered by more than a clear line."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest
from fuzz_commands import make_base
from fuzz_families import cases
from fuzz_harness import RIGHT, Child, Result, classify, run_cases, table
from fuzz_values import change, places

_COUNT = 156  # the first inputs of `make fuzz`, twelve of each family
_SEED = 0


@pytest.mark.slow
def test_bad_inputs_end_in_one_clear_line(tmp_path: Path) -> None:
    make_base(tmp_path)
    results = list(run_cases(cases(_COUNT), tmp_path, _SEED))
    bad = [result for result in results if result.kind not in RIGHT]
    told = "\n".join(
        f"{result.family} {result.number}: {result.kind}: {result.text[-500:]}" for result in bad
    )
    assert not bad, told
    assert len(results) == _COUNT


@pytest.mark.parametrize(
    ("code", "stderr", "error", "kind"),
    [
        (0, "", "", "ok"),
        (0, "smalti: a note\n", "", "ok"),
        (0, "/a/b.py:12: UserWarning: this is old\n  warnings.warn(\n", "", "several lines"),
        (2, "smalti: steps must be at least 1, not 0\n", "", "one line"),
        (2, "smalti: a note\nsmalti: steps must be at least 1, not 0\n", "", "one line"),
        (2, "", "", "several lines"),
        (2, "Usage: smalti\nsmalti: steps must be at least 1\n", "", "several lines"),
        (2, "smalti: " + "x y z " * 100 + "\n", "", "too long"),
        (2, "smalti: [Errno 17] File exists: x\n", "", "unnamed"),
        (2, "smalti: ValueError in a place\n", "", "unnamed"),
        (None, "", "Traceback (most recent call last):\n", "traceback"),
    ],
)
def test_ends_are_told_apart(code: object, stderr: str, error: str, kind: str) -> None:
    assert classify(code, stderr, error) == kind


def test_the_table_counts_by_family() -> None:
    results = [Result("a", 0, "ok", "", 0.1), Result("a", 1, "hang", "", 20.0), Result("b", 0, "ok", "", 0.1)]
    assert "| a | 2 | 1 | 0 | 0 | 0 | 0 | 0 | 1 | 0 | 10.050 |" in table(results)
    assert "| all | 3 | 2 | 0 | 0 | 0 | 0 | 0 | 1 | 0 | 6.733 |" in table(results)


def test_changes_depend_on_the_seed_alone() -> None:
    value = {"a": [1, {"b": 2}], "c": "d"}
    assert places(value) == [("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c",)]
    assert repr(change(Random(5), value)) == repr(change(Random(5), value)) != repr(value)
    assert value == {"a": [1, {"b": 2}], "c": "d"}


def test_ends_that_arrive_with_their_beginnings_are_seen(tmp_path: Path) -> None:
    """A call from Python is over before anyone looks: both of its lines are in the pipe then."""
    make_base(tmp_path)
    started = time.perf_counter()
    results = list(run_cases([("python", number) for number in range(30)], tmp_path, _SEED))
    assert {result.kind for result in results} <= set(RIGHT)
    assert sum(result.seconds for result in results) < 20 and time.perf_counter() - started < 120


def test_a_process_that_waits_is_told_from_one_that_computes(tmp_path: Path) -> None:
    child = Child(tmp_path, 0)
    try:
        busy = [child._idle() for _ in range(3)]
        deadline = time.perf_counter() + 100
        while not child._idle() and time.perf_counter() < deadline:
            time.sleep(0.1)
        assert not all(busy) and child._idle(), "it imports, and then waits for a case"
        assert child._cpu_seconds() > 0
    finally:
        child.close()
