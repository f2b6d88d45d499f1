"""Draw the guide's images with the bundled model: docs/images/showcase.png and docs/images/unmasking.gif.

python docs/make/showcase.py [--model FOLDER] [--out DIR]

Every prompt gets one image with seed 0. The prompts are of things that the model draws well.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

import smalti
from smalti.common.images import make_grid, save_gif

PROMPTS = [
    "a tiger",
    "four strawberries",
    "a green pear left of a blue car",
    "a hamburger above a pizza",
    "a house and a rocket",
    "a penguin on a light blue background",
    "two pandas",
    "an owl below a crown",
]
ANIMATED = "a hamburger above a pizza"
IMAGES = Path(__file__).parent.parent / "images"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="name or folder of a model; by default objects")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pipe = smalti.load(options.model)
    images = pipe.start(PROMPTS, pipe.preset("quality"), seed=0).output("pt").images
    grid = make_grid((images * 255).round().to(torch.uint8), columns=4, gap=6)
    grid.resize((grid.width * 3 // 4, grid.height * 3 // 4), Image.Resampling.LANCZOS).save(
        options.out / "showcase.png", optimize=True
    )
    generation = pipe.start(ANIMATED, seed=0)
    save_gif(pipe.frames(list(generation))[0], options.out / "unmasking.gif")


if __name__ == "__main__":
    main()
