"""Compare codebook sizes: one encoder, codes by k-means, and a decoder trained for each codebook.

python experiments/codebooks.py --start-from FOLDER [--config configs/objects-tokenizer.yaml]
    [--sizes 4096 16384 65536 131072] [--images 4096] [--steps 600] [--output runs/codebooks]

FOLDER holds an image tokenizer whose encoder is trained. Every size has the same encoder, the same images for its
codes, and the same number of steps for its decoder, so only the codebook differs. A finished size is not repeated.
Results go to results.json and results.md in --output: PSNR, SSIM, and codes in use on unseen images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity

from smalti.common.files import read_json, write_json_atomic, write_text_atomic
from smalti.common.randomness import stream
from smalti.data.sources import Source, stack_images
from smalti.storage.folder import load_image_tokenizer, save_image_tokenizer
from smalti.training.config import TokenizerRunConfig
from smalti.training.reading import load_config
from smalti.training.tokenizer import train_tokenizer
from smalti.vq.config import VQConfig
from smalti.vq.fidelity import measure_fidelity
from smalti.vq.kmeans import kmeans
from smalti.vq.tokenizer import ImageTokenizer, to_float

_MEASURED = 256  # unseen images
_BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--start-from", type=Path, required=True, help="image tokenizer with a trained encoder"
    )
    parser.add_argument(
        "--config", default="configs/objects-tokenizer.yaml", help="configuration of the training"
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[4096, 16384, 65536, 131072], help="codebook sizes"
    )
    parser.add_argument(
        "--images", type=int, default=4096, help="images whose features the codes are made from"
    )
    parser.add_argument("--steps", type=int, default=600, help="steps of each decoder's training")
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
    start = folder / "codes"
    if not (start / "config.json").exists():
        config = read_config(options, size, start, folder)
        save_image_tokenizer(with_codes(options, config), start)
    config = read_config(options, size, start, folder)
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
    }


def read_config(options: argparse.Namespace, size: int, start: Path, folder: Path) -> TokenizerRunConfig:
    """Return the configuration of a decoder's training."""
    changes = [
        f"output={folder / 'run'}",
        f"start_from={start}",
        "decoder_only=true",
        f"model.codebook_size={size}",
        f"loop.steps={options.steps}",
        "loss.quantize_after=0",
    ]
    return load_config(TokenizerRunConfig, options.config, [*options.overrides, *changes])


@torch.no_grad()
def with_codes(options: argparse.Namespace, config: TokenizerRunConfig) -> ImageTokenizer:
    """Return the tokenizer of `start_from` with codes of the wanted number, by k-means over features."""
    trained = load_image_tokenizer(options.start_from).float().eval()
    tokenizer = ImageTokenizer(VQConfig.from_dict(config.model))
    weights = {
        name: value for name, value in trained.state_dict().items() if not name.startswith("quantize.")
    }
    tokenizer.load_state_dict(weights, strict=False)
    points = distinct_features(trained, config.data.training(), options.images)
    generator = stream(config.seed, "codes")
    centers, _ = kmeans(points, config.model["codebook_size"], iterations=5, generator=generator)
    tokenizer.quantize.embedding.weight.copy_(centers)
    tokenizer.quantize.normalize_codes()
    return tokenizer


def distinct_features(tokenizer: ImageTokenizer, source: Source, images: int) -> torch.Tensor:
    """Return the features of images without repeats, (N, C) on the unit sphere: plain ground counts once."""
    parts = []
    for first in range(0, images, _BATCH):
        pixels = stack_images([source[index] for index in range(first, min(first + _BATCH, images))])
        features = tokenizer.features(to_float(pixels)).permute(0, 2, 3, 1).flatten(0, 2)
        parts.append(F.normalize(features, dim=1))
    points = torch.cat(parts)
    _, keep = torch.unique((points * 512).round().to(torch.int16), dim=0, return_inverse=True)
    first = torch.full((int(keep.max()) + 1,), len(points)).scatter_reduce(
        0, keep, torch.arange(len(points)), "amin"
    )
    return points[first.sort().values]


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    rows = ["| codes | PSNR, dB | SSIM | codes in use, % | perplexity |", "| --- | --- | --- | --- | --- |"]
    rows += [
        f"| {row['codes']:,} | {row['psnr']:.2f} | {row['ssim']:.4f} | {100 * row['codes_used']:.1f} "
        f"| {row['perplexity']:,.0f} |"
        for row in results
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
