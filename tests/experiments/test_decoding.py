"""The comparison of decoding rules: cells, gains at equal cost, and tables of what is measured so far."""

from __future__ import annotations

import pytest
from decoding import DEFAULT, Point, gain, lookup, settings_of, tables

from smalti.errors import SmaltiError
from smalti.generation.settings import GenerationSettings


def point(cost, hits):
    scores = {(0, number): float(hit) for number, hit in enumerate(hits)}
    return Point(sum(hits) / len(hits), scores, [sum(hits) / len(hits)], cost, cost)


def cell(rule, steps, hits, seconds=1.0, seed=0):
    found = {"rule": rule, "steps": steps, "seed": seed, "suite": "scenes", "model": "m", "weights": "w"}
    mean = sum(hits) / len(hits)
    return {**found, "images": len(hits), "mean": mean, "hits": hits, "passes": steps, "seconds": seconds}


def test_gains_are_taken_image_by_image():
    default = [point(4, [0, 0, 1, 1]), point(16, [1, 0, 1, 1])]
    assert gain(point(4, [1, 1, 1, 1]), default, "passes") == (0.5, pytest.approx(0.288675))
    assert gain(point(16, [1, 0, 1, 1]), default, "seconds") == (0.0, 0.0)
    # Half way between 4 and 16 by the logarithm, the default's first image counts half.
    assert gain(point(8, [1, 1, 1, 1]), default, "passes")[0] == pytest.approx(0.375)
    assert gain(point(3, [1, 1, 1, 1]), default, "passes") is None
    assert gain(point(32, [1, 1, 1, 1]), default, "seconds") is None


def test_only_shared_images_count():
    default = [Point(1.0, {(0, 0): 1.0, (0, 1): 1.0, (1, 0): 0.0}, [1.0], 4, 4)]
    assert gain(point(4, [1, 0, 1, 1]), default, "passes")[0] == -0.5


def test_tables_of_what_is_there():
    text = tables(
        [cell(DEFAULT, 4, [0, 1, 1, 0]), cell(DEFAULT, 8, [1, 1, 1, 0], 2.0), cell("order=draw", 4, [1] * 4)]
    )
    assert (
        "| `order=draw` | +0.500 ± 0.289 | – |" in text and "| `default` | 4; 1.000 s | 8; 2.000 s |" in text
    )
    with pytest.raises(SmaltiError, match="--tables needs measured cells"):
        tables([])


def test_rules_and_cells():
    own = GenerationSettings()
    assert settings_of(own, DEFAULT) == own
    changed = settings_of(own, "order=stable:pool=3 guidance_scale=2")
    assert (changed.order, changed.guidance_scale) == ("stable:pool=3", 2)
    with pytest.raises(SmaltiError, match="--rules must have SETTING=VALUE, not 'stable'"):
        settings_of(own, "stable")
    wanted = {"rule": "another text", "steps": 4, "seed": 0}
    assert lookup([cell(DEFAULT, 4, [1])], wanted)["rule"] == DEFAULT
    assert lookup([cell(DEFAULT, 8, [1])], wanted) is None
