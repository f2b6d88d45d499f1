"""Fine-tune the bundled model on a folder of captioned images, and draw with the result.

python examples/finetune_folder.py [OUTPUT] [IMAGES]

The folder OUTPUT (default: runs/finetune) gets the training and an image. Without the folder IMAGES the script makes a
few images itself. It trains for a few steps only, to show the way; that is far too few to learn from.

The command line does the same: smalti train configs/folder.yaml data.path=IMAGES
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

import smalti
from smalti.storage.loading import BUNDLED_MODELS
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import train_denoiser
from smalti.training.reading import load_config

CONFIG = Path(__file__).parent.parent / "configs" / "folder.yaml"
COLORS = ("red", "blue", "green", "yellow", "black", "white", "orange", "purple")


def write_images(folder: Path) -> None:
    """Write flags with three stripes, each with a text file of the same name that holds its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, top in enumerate(COLORS):
        stripes = [top, *(COLORS[(number + offset) % len(COLORS)] for offset in (1, 3))]
        flag = Image.new("RGB", (256, 256))
        for row, color in enumerate(stripes):
            ImageDraw.Draw(flag).rectangle((0, row * 86, 255, row * 86 + 85), fill=color)
        flag.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a flag with the stripes {', '.join(stripes)}")


def main(output: Path, images: Path | None = None) -> None:
    if images is None:
        images = output / "images"
        write_images(images)

    # The configuration is a file; key=value changes it. start_from is the model to fine-tune, tokenizer has the image
    # tokenizer. Images are encoded once, into cache.path.
    changes = {
        "output": output,
        "data.path": images,
        "cache.path": output / "cache",
        "cache.samples": 8,
        "start_from": BUNDLED_MODELS["scenes"],
        "tokenizer": BUNDLED_MODELS["scenes"],
        "loop.steps": 6,
        "loop.batch_size": 4,
        "loop.accumulate": 1,
        "loop.log_every": 1,
    }
    config = load_config(DenoiserRunConfig, CONFIG, [f"{key}={value}" for key, value in changes.items()])
    last = train_denoiser(config)  # a run that was stopped continues at its last checkpoint
    print(f"loss at step {last['step']}: {last['loss']:.3f}")

    pipe = smalti.load(output / "model")
    out = pipe("a flag with the stripes red, blue, yellow", num_inference_steps=8, seed=0)
    out.images[0].save(output / "flag.png")
    print(f"{output / 'flag.png'} has the image, {output / 'model'} the model")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/finetune"), *map(Path, sys.argv[2:3]))
