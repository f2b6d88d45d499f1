"""Which model a command uses for images that a model has drawn."""

from __future__ import annotations

import numpy as np

from smalti.cli.pictures import with_own_model
from smalti.editing.picture import Picture


def picture(model: str, software: str = "Smalti 1.0") -> Picture:
    return Picture(np.zeros((8, 8, 3), np.uint8), {"Software": software, "model": model})


def test_a_bundled_model_edits_what_it_drew() -> None:
    none: dict[str, object] = {"model": None, "device": "cpu"}
    assert with_own_model(none, [picture("scenes")]) == {"model": "scenes", "device": "cpu"}
    assert with_own_model(none, [picture("scenes"), picture("scenes")])["model"] == "scenes"
    assert with_own_model({"model": "mine"}, [picture("scenes")])["model"] == "mine"
    for others in (
        [picture("scenes"), picture("objects")],
        [picture("scenes", software="GIMP")],
        [picture("/a/folder")],
        [Picture(np.zeros((8, 8, 3), np.uint8))],
    ):
        assert with_own_model(none, others) == none
