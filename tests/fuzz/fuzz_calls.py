"""Calls of the library from Python with wrong arguments. What is right on the command line is right here, too."""

from __future__ import annotations

import copy
import functools
import sys
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from fuzz_values import TEXTS, VALUES
from PIL import Image

import smalti
from smalti.data.folder import ImageFolder
from smalti.errors import SmaltiError
from smalti.worlds.scenes.world import Scenes

_OBJECTS: list[Any] = [
    object(),
    np.int64(3),
    np.float32("nan"),
    np.array(2),
    np.zeros((64, 64)),
    np.zeros((64, 64), bool),
    np.full((0, 3), "x", dtype=object),
    torch.tensor(5),
    torch.ones(64, 64, requires_grad=True),
    torch.ones(64, 64, dtype=torch.bfloat16),
    torch.zeros(8, 8, dtype=torch.bool),
    torch.Generator(),
    [torch.Generator(), None],
    Image.new("RGB", (64, 64)),
    Image.new("1", (1, 1)),
    BytesIO(b"not an image"),
    b"bytes",
    Path("no/such/file"),
    1 + 2j,
    print,
    {1, 2},
    range(3),
    (0.1, 0.5),
    (8, 0, 0, 0),
    (10**9, 0, 0, 0),
    (-1, 0, 0, 0),
    ["a", "b"],
    "a red circle",
]

# Names of arguments that may be wrong, by what is called.
_ARGUMENTS = {
    "draw": "prompt negative_prompt num_inference_steps guidance_scale height width num_images_per_prompt generator "
    "seed output_type callback_on_step_end preset settings",
    "edit": "image prompt negative_prompt source_prompt mask grow strength share threshold keep_pixels blend "
    "num_inference_steps guidance_scale height width num_images_per_prompt generator seed callback_on_step_end "
    "preset settings",
    "load": "model device dtype quantize offload memory revision adapter adapter_scale",
    "settings": "num_inference_steps guidance_scale guidance_interval guidance_schedule budget order revision "
    "refinement draw temperature temperature_schedule top_k top_p final reuse reuse_every height width",
    "folder": "path size crop seed",
    "scenes": "seed size split mix lattice lattice_share extra_shapes halves blobs named",
}


def calls(random: Random, base: Path) -> list[str]:
    """One or two wrong arguments of a call from Python."""
    return ["python", random.choice([*_ARGUMENTS, "draw", "edit"]), str(base), str(random.getrandbits(62))]


def wrong(random: Random, what: str) -> dict[str, Any]:
    """Return wrong arguments of a call by name."""
    names = random.sample(_ARGUMENTS[what].split(), random.choice((1, 1, 2)))
    found: dict[str, Any] = {}
    for name in names:
        values = random.choice((VALUES, TEXTS, _OBJECTS, _OBJECTS))
        value = random.choice(values)
        found[name] = value if values is _OBJECTS else copy.deepcopy(value)
    return found


@functools.cache
def _pipe(base: Path) -> smalti.Pipeline:
    return smalti.load(base / "model")


def call(what: str, base: str, seed: str) -> int:
    """Make a call; return 0 if it succeeds, or 2 after one line on stderr."""
    arguments, folder = wrong(Random(seed), what), Path(base)
    try:
        _call(what, folder, arguments)
    except SmaltiError as error:
        print(f"smalti: {error}", file=sys.stderr)
        return 2
    return 0


def _call(what: str, base: Path, arguments: dict[str, Any]) -> None:
    few = {"num_inference_steps": 1}
    if what == "draw":
        _pipe(base)(**{"prompt": "a red circle", **few, **arguments})
    elif what == "edit":
        _pipe(base).edit(**{"image": base / "image.png", "prompt": "a cat", **few, **arguments})
    elif what == "load":
        smalti.load(**{"model": base / "model", "local_files_only": True, **arguments})
    elif what == "settings":
        _pipe(base)("a red circle", settings=_pipe(base).settings.replaced(**{**few, **arguments}))
    elif what == "folder":
        ImageFolder(**{"path": base / "data", "size": 32, **arguments})[0]
    else:
        Scenes(**arguments)[3]
