"""GenEval's six tasks, and the mix of scenes that trainings show by default."""

from __future__ import annotations

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

TRAINING_MIX: dict[str, float] = {
    "single_object": 0.08,
    "two_object": 0.10,
    "counting": 0.20,
    "colors": 0.17,
    "position": 0.20,
    "color_attr": 0.20,
    "mixed": 0.05,
}
"""Share of each kind of scene: GenEval's six tasks, and `mixed` scenes of three or four objects."""
