"""Measure time, memory and error of decoding image tokens: the decoder on whole feature maps and in bands.

`plain` is the decoder as it is called, `last` has channels-last maps, `compiled` has compiled blocks, `bands` works in
bands; each is followed by the dtype of its weights and products (of the finest level for bands_bf16).

python benchmarks/decode.py [--size 1024] [--channels 256] [--repeats 1] [--device cpu] [--json]

Runs alternate, each in its own process; a time is the median of its rounds. Memory is the peak above the float32
weights; `weights_mb` says how large the weights are in float32 and in 16 bits. The difference to plain_float32 is the
largest over all pixels, both clamped to [-1, 1], in 1/255 of that range.

The decoder has the reference model's shape (`--channels` changes its first level) and random weights that keep the
scale of their input: convolutions of gain 1, residual branches of gain 0.3. Codes are random. The differences show how
rounding travels through such a network, not through the trained one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import device_name, in_a_process, measure
from safetensors.torch import load_file, save_file
from torch import nn

from smalti.vq.autoencoder import Decoder
from smalti.vq.banded import decode_in_bands
from smalti.vq.config import VQConfig
from smalti.vq.layers import AttentionBlock, ResnetBlock

_BRANCH_GAIN = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="side in pixels, a multiple of 16")
    parser.add_argument(
        "--channels", type=int, default=256, help="channels of the first level, a multiple of 32"
    )
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--repeats", type=int, default=1, help="rounds")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--image", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.size < 16 or options.size % 16:
        parser.error(f"--size must be a multiple of 16, not {options.size}")
    if options.channels < 32 or options.channels % 32:
        parser.error(f"--channels must be a multiple of 32, not {options.channels}")
    if options.one:
        print(json.dumps(one(options)))
        return
    report = compare(options)
    if options.json:
        print(json.dumps(report))
        return
    weights = report["weights_mb"]
    print(f"{report['device']}, {options.size}×{options.size} pixels, {options.channels} channels")
    print(f"weights {weights['float32']:,.0f} MB in float32, {weights['bf16']:,.0f} MB in 16 bits\n")
    print("name              seconds   extra MB   largest difference, 1/255")
    for row in report["runs"]:
        difference = row["largest_difference"]
        shown = "-" if difference is None else f"{difference:.3f}"
        print(f"{row['name']:<16} {row['seconds']:>8.2f} {row['extra_mb']:>10,.0f} {shown:>10}")


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run all contenders in turns, each in a process of its own."""
    names = options.only or list(CONTENDERS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    images: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.repeats):
            for name in names:
                print(f"{name} ...", file=sys.stderr)
                path = Path(folder) / f"{name}.safetensors"
                found[name].append(_process(options, name, path))
                images[name] = load_file(path)["image"].clone()
    plain = images.get("plain_float32")
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in Decoder(_config(options)).parameters())
    return {
        "device": device_name(options.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "size": options.size,
        "channels": options.channels,
        "weights_mb": {"float32": round(4 * parameters / 1e6, 1), "bf16": round(2 * parameters / 1e6, 1)},
        "runs": [
            {
                "name": name,
                "seconds": round(statistics.median(result["seconds"] for result in results), 3),
                "extra_mb": round(max(result["extra_mb"] for result in results), 1),
                "largest_difference": None if plain is None else _difference(images[name], plain),
            }
            for name, results in found.items()
        ],
    }


def _difference(image: torch.Tensor, plain: torch.Tensor) -> float:
    """Return the largest difference of two images in [-1, 1], which 255 levels span."""
    return round(float((image.clamp(-1, 1) - plain.clamp(-1, 1)).abs().max()) * 127.5, 4)


def _process(options: argparse.Namespace, name: str, image: Path) -> dict[str, float]:
    arguments = [f"--{key}={getattr(options, key)}" for key in ("size", "channels", "device")]
    return in_a_process(__file__, [*arguments, f"--one={name}", f"--image={image}"])


@torch.inference_mode()
def one(options: argparse.Namespace) -> dict[str, float]:
    """Return seconds and extra megabytes of one contender, and write its image to `options.image`."""
    device = torch.device(options.device)
    config = _config(options)
    decoder = _random_decoder(config).to(device)
    generator = torch.Generator().manual_seed(0)
    side = options.size // config.downscale
    z = torch.randn(1, config.z_channels, side, side, generator=generator).to(device)
    call = CONTENDERS[options.one]
    # A few positions first: threads start and libraries load outside of the timing.
    call(decoder, z[:, :, :2, :2])
    drawn: list[torch.Tensor] = []

    def draw() -> None:
        drawn[:] = [call(decoder, z)]

    seconds, extra = measure(draw, device, drawn.clear)
    save_file({"image": drawn[0].cpu().contiguous()}, options.image)
    return {"seconds": seconds, "extra_mb": extra / 1e6}


def _config(options: argparse.Namespace) -> VQConfig:
    return VQConfig(ch=options.channels)


@torch.no_grad()
def _random_decoder(config: VQConfig) -> Decoder:
    with torch.device("meta"):  # skips an initialisation that would be thrown away
        decoder = Decoder(config)
    decoder = decoder.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(1)
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.normal_(std=module.weight[0].numel() ** -0.5, generator=generator)
            module.bias.zero_()
        elif isinstance(module, nn.GroupNorm):
            module.reset_parameters()
    for module in decoder.modules():
        if isinstance(module, ResnetBlock):
            module.conv2.weight.mul_(_BRANCH_GAIN)
        elif isinstance(module, AttentionBlock):
            module.proj_out.weight.mul_(_BRANCH_GAIN)
    return decoder


def _plain_float32(decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
    return decoder(z)


def _last_float32(decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
    return decoder(z.contiguous(memory_format=torch.channels_last))


def _plain_bf16(decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
    return decoder.bfloat16()(z.bfloat16()).float()


def _last_bf16(decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
    return _last_float32(decoder.bfloat16(), z.bfloat16()).float()


def _compiled_float32(decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
    return _compiled(decoder)(z)


def _compiled_bf16(decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
    return _compiled(decoder.bfloat16())(z.bfloat16()).float()


def _compiled(decoder: Decoder) -> Decoder:
    """Compile the blocks once, as loading does."""
    from smalti.runtime.compiling import compile_blocks

    if not hasattr(decoder.mid.block_1.forward, "_torchdynamo_orig_callable"):
        compile_blocks(decoder)
    return decoder


def _bands_float32(decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
    return decode_in_bands(decoder, z)


def _bands_bf16(decoder: Decoder, z: torch.Tensor) -> torch.Tensor:
    return decode_in_bands(decoder, z, dtype=torch.bfloat16)


CONTENDERS: dict[str, Callable[[Decoder, torch.Tensor], torch.Tensor]] = {
    "plain_float32": _plain_float32,
    "last_float32": _last_float32,
    "plain_bf16": _plain_bf16,
    "last_bf16": _last_bf16,
    "compiled_float32": _compiled_float32,
    "compiled_bf16": _compiled_bf16,
    "bands_float32": _bands_float32,
    "bands_bf16": _bands_bf16,
}


if __name__ == "__main__":
    main()
