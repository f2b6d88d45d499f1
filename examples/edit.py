"""Edit an image: by prompt, inside a mask, beyond its edges.

python examples/edit.py [OUTPUT]

The script draws an image and edits it. The folder OUTPUT (default: runs/edit) gets the results.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import smalti

BEFORE = "a photo of a green circle and a blue square"
AFTER = "a photo of a green circle and a yellow square"


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    pipe = smalti.load("scenes")

    # An edit takes a file's name, a PIL image, an array, or a result of Smalti, whose tokens it takes as they are.
    source = pipe(BEFORE, seed=0)
    source.images[0].save(output / "before.png")

    # The source prompt says what the image shows, the prompt what it should show. Smalti selects the tokens that are
    # less likely under the new prompt, and fills them again. All other tokens and pixels stay as they are.
    edit = pipe.edit(source, AFTER, source_prompt=BEFORE, seed=0)
    edit.image.save(output / "recoloured.png")
    edit.map().save(output / "selected-tokens.png")
    print(f"{int(edit.region.sum())} of {edit.region.numel()} tokens were filled again")

    # A result can be edited again. Its prompt is known, so it needs no source prompt.
    pipe.edit(edit, "a photo of a green star and a yellow square", seed=1).image.save(output / "reshaped.png")

    # A mask says where to edit: an image or an array of the image's size, white or True where it may change. A prompt
    # without the square removes the square.
    width, height = edit.image.size
    mask = np.zeros((height, width), dtype=bool)
    mask[:, : width // 2] = True
    pipe.edit(edit, "a photo of a green circle", mask=mask, seed=0).image.save(output / "removed.png")

    # Outpainting: so many pixels to the left, above, to the right, below.
    pipe.edit(edit, AFTER, grow=(64, 0, 64, 0), seed=0).image.save(output / "wider.png")

    # A variation fills a share of all tokens again.
    pipe.edit(edit, AFTER, strength=0.3, seed=0).image.save(output / "variation.png")
    print(f"{output} has the images")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/edit"))
