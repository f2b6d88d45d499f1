"""Measure where the time of an image goes in a model of the reference model's shape, stage by stage.

python benchmarks/release.py [--layers 2] [--hidden 1024] [--size 1024] [--steps 8] [--dtype bf16] [--compile]
    [--graphs] [--quantize fp8] [--reuse RULE] [--attention NAME] [--passes 2] [--image-dtype bf16] [--json]

The weights are random. The layers have the reference model's proportions: heads of 128, four queries a key, 3.5 D in
the feed-forward. The head has its 131,072 codes, and the image tokenizer has its shape.

Stages are the backbone (the denoiser without its head), sampling (head, guidance, draw) and pixels (in float32). A
stage's floor is its counted multiply-adds (`operations`: two each) over the rate of a large matrix product of the same
dtype. That rate is the fastest of several products before and after, in the same run.

Sampling counts one product a step over the rows that can still change. Guidance is applied before the head, and
finished positions are left out. `vendor_sampling_operations` counts two products over every row. Convolutions may take
fewer operations than are counted.

The reference model's true shape, for a GPU: --layers 34 --hidden 4096 --steps 64 --device cuda
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from measure import DTYPES, device_name, operations_of, product_rate
from torch.nn.attention import SDPBackend, sdpa_kernel

from smalti.cli.output import peak_memory_mb
from smalti.errors import SmaltiError
from smalti.generation.build import make_sampler
from smalti.generation.settings import GenerationSettings
from smalti.model.config import DenoiserConfig, RopeConfig
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.runtime.compiling import check_compiler, compile_decoder, compile_layers, record_passes
from smalti.runtime.quantization import quantized_linear, round_activations
from smalti.sampling import predictor
from smalti.sampling.sampler import sample
from smalti.vq.config import VQConfig
from smalti.vq.tokenizer import ImageTokenizer

HEAD_DIM, CODES, TEXT_IDS = 128, 131072, 132101
PROMPT_BEFORE, PROMPT_AFTER = (
    110,
    3,
)  # ids around the slots, in the reference model's template with a short caption
ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
STAGES = ("backbone", "sampling", "pixels")
_LARGE = (4096, 4096, 4096)  # the product whose rate is measured


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2, help="number of layers")
    parser.add_argument("--hidden", type=int, default=1024, help="D, width of a layer, a multiple of 512")
    parser.add_argument("--codes", type=int, default=CODES, help="V, number of codes")
    parser.add_argument(
        "--vq-channels", type=int, default=256, help="channels of the image tokenizer's first level"
    )
    parser.add_argument("--size", type=int, default=1024, help="side in pixels")
    parser.add_argument("--steps", type=int, nargs="+", default=[8], help="numbers of steps")
    parser.add_argument("--guidance", type=float, default=5.0, help="guidance scale; 0 is no guidance")
    parser.add_argument("--revise", default="threshold:0.6", help="revision rule; none is no token editing")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="dtype of the denoiser")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--compile", action="store_true", help="compile the layers before anything is timed")
    parser.add_argument(
        "--graphs", action="store_true", help="record passes as CUDA graphs, without compiling"
    )
    parser.add_argument("--quantize", choices=["int8", "fp8"], help="products of the layers in 8 bits")
    parser.add_argument("--reuse", default="none", help="rule of reuse across steps")
    parser.add_argument("--attention", choices=ATTENTION, help="attention kernel; by default PyTorch chooses")
    parser.add_argument(
        "--passes", type=int, choices=(1, 2), default=1, help="passes that guidance is computed in"
    )
    parser.add_argument(
        "--image-dtype", choices=DTYPES, default="float32", help="dtype of the image tokenizer"
    )
    parser.add_argument("--repeats", type=int, default=1, help="images that are timed, after a short one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    report = measure(options)
    if options.json:
        print(json.dumps(report))
        return
    print(
        f"{report['device']}, {options.dtype}: {options.layers} layers, D {options.hidden}, V {options.codes}, "
        f"{options.size}×{options.size}; products at "
        + ", ".join(f"{rate:,.0f} GFLOP/s in {name}" for name, rate in report["gflops"].items())
    )
    print(f"weights {report['weights_mb']:,.0f} MB, peak {report['peak_memory_mb']:,.0f} MB\n")
    print("steps  stage      operations   seconds     floor   ratio")
    for row in report["rows"]:
        for name in STAGES:
            stage = row[name]
            print(
                f"{row['steps']:>5}  {name:<9} {stage['operations']:>11.3g} {stage['seconds']:>9.3f} "
                f"{stage['floor_seconds']:>9.3f} {stage['ratio']:>7.2f}"
            )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return one row for each number of steps."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    denoiser, tokenizer = make_model(options, device, dtype)
    side = options.size // tokenizer.config.downscale
    prompt = make_prompt(denoiser.config.slots(side, side)).to(device)
    unknown = torch.full((1, side, side), denoiser.config.mask_code, device=device)
    with torch.inference_mode():
        backbone = operations_of(lambda: denoiser(unknown, prompt))
    prepare(options, denoiser, tokenizer)
    # Twice: shapes that are recorded or compiled at the second step differ from those of the first.
    draw(options, denoiser, tokenizer, prompt, side, steps=2)
    precisions = {"backbone": dtype, "sampling": dtype, "pixels": DTYPES[options.image_dtype]}
    rates = [{one: product_rate(device, one, *_LARGE) for one in set(precisions.values())}]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taken = {
        steps: [draw(options, denoiser, tokenizer, prompt, side, steps) for _ in range(options.repeats)]
        for steps in options.steps
    }
    rates.append({one: product_rate(device, one, *_LARGE) for one in rates[0]})
    rate = {one: max(found[one] for found in rates) for one in rates[0]}
    pixels = operations_of(lambda: decode_on_meta(tokenizer.config, side))
    rows = []
    for steps, runs in taken.items():
        guided = 2 if options.guidance else 1
        operations = {
            "backbone": backbone * guided * steps,
            "sampling": 2 * runs[0]["rows"] * options.hidden * options.codes,
            "pixels": pixels,
        }
        row: dict[str, Any] = {"steps": steps}
        for name in STAGES:
            seconds = statistics.median(run[name] for run in runs)
            floor = operations[name] / rate[precisions[name]]
            row[name] = {
                "seconds": round(seconds, 4),
                "operations": operations[name],
                "floor_seconds": round(floor, 4),
                "ratio": round(seconds / floor, 3),
            }
        row["vendor_sampling_operations"] = 2 * guided * steps * side * side * options.hidden * options.codes
        rows.append(row)
    weights = [*denoiser.parameters(), *tokenizer.parameters()]
    return {
        "device": device_name(options.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": options.dtype,
        **{
            name: getattr(options, name)
            for name in ("compile", "graphs", "quantize", "reuse", "attention", "passes")
        },
        "image_dtype": options.image_dtype,
        "layers": options.layers,
        "hidden": options.hidden,
        "codes": options.codes,
        "size": options.size,
        "gflops": {str(one).removeprefix("torch."): round(value / 1e9, 1) for one, value in rate.items()},
        "weights_mb": round(sum(weight.nbytes for weight in weights) / 1e6, 1),
        "peak_memory_mb": round(peak_memory_mb(options.device), 1),
        "rows": rows,
    }


def make_model(
    options: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> tuple[Denoiser, ImageTokenizer]:
    """Return random weights of the right sizes; norms are ones, so that numbers stay within bounds."""
    heads = options.hidden // HEAD_DIM
    config = DenoiserConfig(
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4,
        head_dim=HEAD_DIM,
        intermediate_size=options.hidden * 7 // 2,
        vocab_size=TEXT_IDS,
        codebook_size=options.codes,
        rope=RopeConfig("yarn", 1e6, 16.0, llama_4_scaling_beta=0.1),
    )
    with torch.device("meta"):
        denoiser = Denoiser(config)
        tokenizer = ImageTokenizer(VQConfig(ch=options.vq_channels, codebook_size=options.codes))
    torch.manual_seed(0)
    for module, precision in ((denoiser, dtype), (tokenizer, DTYPES[options.image_dtype])):
        module.to(precision).to_empty(device=device).eval().requires_grad_(False)
        for name, weight in module.named_parameters():
            if weight.ndim > 1:
                weight.normal_(std=weight[0].numel() ** -0.5)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return denoiser, tokenizer


def prepare(options: argparse.Namespace, denoiser: Denoiser, tokenizer: ImageTokenizer) -> None:
    """Quantize, compile or record the model as the options say."""
    if options.quantize:
        for layer in denoiser.layers:
            for module in list(layer.modules()):
                for name, part in list(module.named_children()):
                    if isinstance(part, torch.nn.Linear):
                        setattr(module, name, quantized_linear(part.weight.detach(), options.quantize))
        round_activations(denoiser)
    if options.compile:
        check_compiler(denoiser.device)
        compile_layers(denoiser)
        compile_decoder(tokenizer)
    elif options.graphs:
        record_passes(denoiser)


def make_prompt(slots: int) -> PromptBatch:
    """Return one prompt as long as the reference model's template makes it."""
    ids = torch.full((1, PROMPT_BEFORE + slots + PROMPT_AFTER), 1000)
    ids[:, PROMPT_BEFORE : PROMPT_BEFORE + slots] = 18
    length = torch.tensor([ids.shape[1]])
    return PromptBatch(
        ids, length, torch.tensor([PROMPT_BEFORE]), torch.tensor([PROMPT_BEFORE - 8]), slots, 100
    )


def draw(
    options: argparse.Namespace,
    denoiser: Denoiser,
    tokenizer: ImageTokenizer,
    prompt: PromptBatch,
    side: int,
    steps: int,
) -> dict[str, float]:
    """Return the seconds of each stage of one image, and the rows that sampling was asked for."""
    settings = GenerationSettings(
        num_inference_steps=steps,
        guidance_scale=options.guidance,
        budget="shift:5",
        order="confidence:temperature=1",
        revision=options.revise,
        reuse=options.reuse,
        temperature=0.86,
    )
    found = {**dict.fromkeys(STAGES, 0.0), "rows": 0}
    kernel = sdpa_kernel(ATTENTION[options.attention]) if options.attention else nullcontext()
    with (
        kernel,
        timed(denoiser, "forward", "backbone", found),
        timed(predictor, "sample_tokens", "sampling", found),
    ):
        for step in sample(
            denoiser,
            prompt,
            grid=(side, side),
            sampler=make_sampler(settings, guidance_batched=options.passes == 1),
            generators=[torch.Generator().manual_seed(0)],
        ):
            tokens = step.tokens
    with timed(tokenizer, "to_pixels", "pixels", found), torch.inference_mode():
        tokenizer.to_pixels(tokens, dtype=tokenizer.dtype)
    return found


@contextmanager
def timed(owner: Any, name: str, stage: str, found: dict[str, float]) -> Iterator[None]:
    """Add the seconds of calls of a function to `found`."""
    function = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        synchronize()
        started = time.perf_counter()
        result = function(*arguments, **named)
        synchronize()
        found[stage] += time.perf_counter() - started
        if stage == "sampling":
            found["rows"] += len(arguments[0])
        return result

    with mock.patch.object(owner, name, call):
        yield


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@torch.no_grad()
def decode_on_meta(config: VQConfig, side: int) -> None:
    """Run the decoder's pass without numbers."""
    with torch.device("meta"):
        tokenizer = ImageTokenizer(config)
        tokenizer.decoder(torch.zeros(1, config.z_channels, side, side))


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"benchmark: {error}")
