"""Compare codebook sizes: one encoder, codes by k-means, and a decoder trained for each codebook.

python experiments/codebooks.py [--config configs/objects-tokenizer.yaml] [--sizes 4096 16384 65536 131072]
    [--output runs/codebooks] [--set loop.steps=600 data.archive=objects]

The configuration has a linear encoder. It is the same for every size, and so are the images and the number of steps of
the decoder: only the codebook differs. A finished size is not repeated. Results go to results.json and results.md in
--output: PSNR, SSIM, and codes in use on unseen images; for real things also the share of the scorer's verdicts "right"
that a round trip leaves.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from skimage.metrics import structural_similarity

from smalti.common.files import read_json, write_json_atomic, write_text_atomic
from smalti.data.config import DataConfig
from smalti.data.sources import stack_images
from smalti.evaluation.request import Request
from smalti.evaluation.suites.objects.suite import Objects
from smalti.storage.folder import load_image_tokenizer
from smalti.training.config import TokenizerRunConfig
from smalti.training.reading import load_config
from smalti.training.tokenizer import train_tokenizer
from smalti.vq.fidelity import measure_fidelity
from smalti.vq.tokenizer import ImageTokenizer
from smalti.worlds.objects.config import ObjectsConfig

_MEASURED = 256  # unseen images
_BATCH = 16
_JUDGED = 240  # renderings for the scorer
_LATTICE = 16  # positions a side of their things


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", default="configs/objects-tokenizer.yaml", help="configuration of the training"
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[4096, 16384, 65536, 131072], help="codebook sizes"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/codebooks"), help="folder of the results")
    parser.add_argument("--set", nargs="+", default=[], dest="overrides", metavar="KEY=VALUE", help="changes")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    results = []
    for size in options.sizes:
        folder = options.output / str(size)
        if not (folder / "result.json").exists():
            write_json_atomic(folder / "result.json", measure(size, folder, options))
        results.append(read_json(folder / "result.json"))
        write_json_atomic(options.output / "results.json", results)
        write_text_atomic(options.output / "results.md", table(results))
    print(table(results))


def measure(size: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make the codes of one size, train its decoder and return what unseen images give."""
    config = read_config(options, size, folder)
    train_tokenizer(config)
    tokenizer = load_image_tokenizer(folder / "run" / "model").eval()
    unseen = config.data.unseen()
    assert unseen is not None
    images = stack_images([unseen[index] for index in range(_MEASURED)])
    decoded = torch.cat([tokenizer.to_pixels(tokenizer.from_pixels(part)) for part in images.split(_BATCH)])
    similar = [
        structural_similarity(image.numpy(), other.numpy(), channel_axis=0)
        for image, other in zip(images, decoded, strict=True)
    ]
    return {
        "codes": size,
        **measure_fidelity(tokenizer, images),
        "ssim": round(sum(similar) / len(similar), 4),
        "survived": survived(tokenizer, config.data),
    }


def survived(tokenizer: ImageTokenizer, data: DataConfig) -> float | None:
    """Return the share of the scorer's verdicts "right" that a round trip leaves; None where nothing is named."""
    if not isinstance(data, ObjectsConfig):
        return None
    suite = Objects(archive=str(data.archive), lattice=_LATTICE, split="train")
    prompts = suite.prompts(_JUDGED, 0)
    kept: list[bool] = []
    for prompt, images in zip(prompts, suite.ground_truth(prompts, Request(), (256, 256)), strict=True):
        if not images:
            continue
        pixels = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])
        decoded = tokenizer.to_pixels(tokenizer.from_pixels(pixels))
        after = [image.permute(1, 2, 0).numpy() for image in decoded]
        kept += suite.survived(suite.score(prompt, images), suite.score(prompt, after))
    return round(sum(kept) / len(kept), 4)


def read_config(options: argparse.Namespace, size: int, folder: Path) -> TokenizerRunConfig:
    """Return the configuration of a tokenizer's training."""
    changes = [f"output={folder / 'run'}", f"model.codebook_size={size}"]
    return load_config(TokenizerRunConfig, options.config, [*options.overrides, *changes])


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    rows = [
        "| codes | PSNR, dB | SSIM | codes in use, % | perplexity | verdicts kept, % |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows += [
        f"| {row['codes']:,} | {row['psnr']:.2f} | {row['ssim']:.4f} | {100 * row['codes_used']:.1f} "
        f"| {row['perplexity']:,.0f} | {percent(row['survived'])} |"
        for row in results
    ]
    return "\n".join(rows) + "\n"


def percent(share: float | None) -> str:
    """Return a share in percent; nothing for None."""
    return "" if share is None else f"{100 * share:.1f}"


if __name__ == "__main__":
    main()
