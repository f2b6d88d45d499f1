"""`smalti evaluate tokenizer`: how faithful an image tokenizer is, there and back."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from smalti.cli import options
from smalti.common.checks import check_whole


def tokenizer(
    images: Annotated[int, typer.Option(metavar="K", help="Unseen scenes to take there and back.")] = 256,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Which scenes.")] = 0,
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Side of the pictures.")] = 256,
    lattice: options.Lattice = 0,
    as_json: options.Json = False,
    model: options.Model = None,
    device: options.Device = "cpu",
    revision: options.Revision = None,
) -> None:
    """The fidelity of an image tokenizer on unseen scenes, from pixels to tokens and back, and its use of codes.

    PSNR in dB is the mean over pictures; psnr_pooled is that of the mean squared error over all of them, which poor
    pictures count more in. codes_used is the share of the codebook that these pictures use, perplexity how many codes
    would be used as much if all were used alike. MODEL may be the folder of an image tokenizer alone.

    Example: smalti evaluate tokenizer --model runs/scenes-tokenizer/model
    """
    started = time.perf_counter()
    check_whole("--images", images)
    check_whole("--seed", seed, 0)
    check_whole("--size", size)
    place = options.check_lattice(lattice)
    import torch

    from smalti.common.devices import find_device
    from smalti.storage.folder import load_image_tokenizer
    from smalti.storage.loading import find_model
    from smalti.vq.fidelity import measure_fidelity
    from smalti.worlds.scenes.world import Scenes

    unseen = Scenes(seed=seed, size=size, split="test", lattice=place)
    folder = find_model(model, revision=revision, parts=("image_tokenizer",))
    codec = load_image_tokenizer(folder, device=find_device(device))
    found = measure_fidelity(codec, torch.stack([unseen[index]["image"] for index in range(images)]))
    report = {
        **found,
        "codebook_size": codec.config.codebook_size,
        "images": images,
        "seconds": round(time.perf_counter() - started, 3),
    }
    if as_json:
        print(json.dumps({**report, "size": size, "lattice": lattice, "seed": seed, "model": folder.name}))
        return
    for name, value in report.items():
        print(f"{name:>14}  {value}")
