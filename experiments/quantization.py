"""Measure what quantization costs: outliers of activations, agreement of tokens, scores of the bundled model.

python experiments/quantization.py [--model FOLDER] [--variants NAME …] [--images K] [--steps N] [--output FOLDER]

A variant stores weights in fewer bits, as `--quantize` and `smalti quantize` do, and computes in float32. The word
`activations` also rounds what each matrix of the layers multiplies: int8 and int4 by a scale a position, fp8 by a cast
after that scale. The word `all` also stores the head and both embeddings in fewer bits.

Every variant sees the states of the float32 model's own generations: grids with masks, at a quarter, a half and three
quarters of its steps, and at the first. `same candidate` is the share of masked positions with the same most probable
token, `divergence` the mean KL divergence in nats. Then the variant draws: `same token` is the share of the final
tokens that are those of float32 with the same seeds, and the score is that of `smalti evaluate scenes`.

Every finished variant is written to results.json in --output, and skipped when the command runs again. The tables are
in results.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import smalti
from smalti.common.files import read_json, write_json_atomic, write_text_atomic
from smalti.errors import SmaltiError
from smalti.evaluation.suites.scenes.prompts import scene_prompts
from smalti.evaluation.suites.scenes.score import score_images
from smalti.model.lora import LINEARS
from smalti.pipeline import Pipeline
from smalti.runtime.quantization import quantized_linear
from smalti.worlds.tasks import TAGS

VARIANTS = (
    "bf16",
    "int8",
    "fp8",
    "int4 group=16",
    "int4 group=32",
    "int4 group=64",
    "int4 group=128",
    "int4 group=256",
    "int8 activations",
    "fp8 activations",
    "int4 group=64 activations",
    "int8 all",
    "fp8 all",
    "int4 group=64 all",
)
FLOAT32 = "float32"
_QUARTERS = (0.0, 0.25, 0.5, 0.75)
_FP8_LARGEST = 448.0


@dataclass(frozen=True)
class Variant:
    """What a variant stores and rounds.

    Attributes:
        weights: "int8", "int4", "fp8", "bf16" or "float32".
        group: numbers in a group of int4.
        activations: whether what the layers' matrices multiply is rounded, too.
        everywhere: whether the head and the embeddings are stored in fewer bits, too.
    """

    weights: str
    group: int = 64
    activations: bool = False
    everywhere: bool = False

    @classmethod
    def parse(cls, text: str) -> Variant:
        weights, *words = text.split()
        if weights not in ("int8", "int4", "fp8", "bf16", FLOAT32):
            raise SmaltiError(f"--variants must begin with int8, int4, fp8 or bf16, not {text!r}")
        group = 64
        for word in words:
            if word.startswith("group=") and word[6:].isdecimal():
                group = int(word[6:])
            elif word not in ("activations", "all"):
                raise SmaltiError(f"--variants must have the words group=N, activations or all, not {word!r}")
        return cls(weights, group, "activations" in words, "all" in words)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument(
        "--variants", nargs="+", default=list(VARIANTS), help=f"by default {', '.join(VARIANTS)}"
    )
    parser.add_argument("--images", type=int, default=240, help="images that are drawn and scored")
    parser.add_argument("--steps", type=int, default=8, help="steps of each image")
    parser.add_argument("--seed", type=int, default=0, help="seed of prompts and images")
    parser.add_argument("--states", type=int, default=48, help="prompts whose states are compared")
    parser.add_argument("--batch-size", type=int, default=16, help="images drawn at a time")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/quantization"), help="folder of the results"
    )
    options = parser.parse_args()
    if options.images < len(TAGS) or options.images % len(TAGS):
        raise SmaltiError(f"--images must be a multiple of {len(TAGS)}, not {options.images}")
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / "results.json"
    found: dict[str, Any] = read_json(kept) if kept.exists() else {}
    pipe = smalti.load(options.model)
    states = list(float_states(pipe, options))
    reference = {"logits": [logits(pipe, *state) for state in states]}
    tokens, row = draw(pipe, options)
    reference["tokens"] = tokens
    found.setdefault("outliers", outliers(pipe, states))
    found.setdefault(FLOAT32, row)
    for name in options.variants:
        if name in found:
            continue
        started = time.process_time()
        variant = make(options.model, Variant.parse(name))
        found[name] = {**compare(variant, states, reference["logits"]), **row_of(variant, options, tokens)}
        found[name]["weight_error"] = weight_error(pipe, variant)
        write_json_atomic(kept, found)
        print(f"{name}: {found[name]}, {time.process_time() - started:.0f} s", flush=True)
    write_json_atomic(kept, found)
    text = report(found, options)
    write_text_atomic(options.output / "results.md", text)
    print(text)


def row_of(pipe: Pipeline, options: argparse.Namespace, tokens: torch.Tensor) -> dict[str, Any]:
    """Draw with a variant; return its scores and the share of tokens that are float32's."""
    drawn, row = draw(pipe, options)
    return {**row, "same_token": float((drawn == tokens).float().mean())}


def make(model: str | None, variant: Variant) -> Pipeline:
    """Return a model whose weights have been stored as the variant says and turned into floats again."""
    if variant.weights == "bf16":
        return smalti.load(model, dtype="bfloat16")
    pipe = smalti.load(model)
    for module in stored_modules(pipe, variant.everywhere):
        weight = module.get_parameter("weight")
        with torch.no_grad():
            small = quantized_linear(weight.detach(), variant.weights, variant.group)
            weight.copy_(small.dequantize(torch.float32))
    if variant.activations:
        for _, module in layer_matrices(pipe):
            module.register_forward_pre_hook(rounding(variant.weights))
    return pipe


def layer_matrices(pipe: Pipeline) -> Iterator[tuple[str, nn.Module]]:
    """Yield the matrices of the layers, with their names."""
    for name, module in pipe.denoiser.named_modules():
        if name.startswith("layers.") and name.rpartition(".")[2] in LINEARS:
            yield name, module


def stored_modules(pipe: Pipeline, everywhere: bool) -> list[nn.Module]:
    """Return the modules whose weight a variant stores in fewer bits."""
    modules: list[nn.Module] = [module for _, module in layer_matrices(pipe)]
    denoiser = pipe.denoiser
    extra: list[nn.Module] = [denoiser.gen_predictor, denoiser.gen_embedding, denoiser.embed_tokens]
    return modules + (extra if everywhere else [])


def rounding(kind: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
    """Return a hook that rounds a layer's input by a scale a position."""

    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        (x,) = inputs
        largest = {"int8": 127.0, "int4": 7.0, "fp8": _FP8_LARGEST}[kind]
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / largest
        if kind == "fp8":
            return (((x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale),)
        return ((x / scale).round() * scale,)

    return hook


State = tuple[torch.Tensor, Any]


def float_states(pipe: Pipeline, options: argparse.Namespace) -> Iterator[State]:
    """Yield grids of the float32 model's generations, and their prompts, a batch a step that is looked at."""
    settings = pipe.settings.replaced(num_inference_steps=options.steps)
    texts = [prompt["prompt"] for prompt in scene_prompts(-(-options.states // len(TAGS)), options.seed + 1)]
    wanted = {int(share * options.steps) for share in _QUARTERS}
    height, width = settings.size
    for text in texts[: options.states]:
        prompt = pipe.components.prompts([text], height, width)
        grid = torch.full((1, *pipe.components.grid(height, width)), pipe.components.mask_code)
        for step in pipe.start(text, settings, seed=options.seed):
            if step.index in wanted:
                yield grid, prompt
            grid = step.tokens.clone()


@torch.inference_mode()
def logits(pipe: Pipeline, grid: torch.Tensor, prompt: Any) -> torch.Tensor:
    """Return the log-probabilities of the masked positions of a grid, with the model's own guidance."""
    scale = pipe.settings.guidance_scale
    masked = (grid == pipe.components.mask_code).flatten()

    def product(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (hidden @ weight.T).float()

    found = [
        pipe.denoiser.gen_predictor.run(product, pipe.denoiser(grid, one).flatten(0, 1)[masked])
        for one in (prompt, prompt.unconditional())
    ]
    return ((1 + scale) * found[0] - scale * found[1]).log_softmax(dim=-1)


def compare(pipe: Pipeline, states: list[State], expected: list[torch.Tensor]) -> dict[str, float]:
    """Return how far a variant's predictions are from float32's at the same states."""
    same, divergence, count = 0, 0.0, 0
    for state, ours in zip(states, expected, strict=True):
        theirs = logits(pipe, *state)
        same += int((ours.argmax(dim=-1) == theirs.argmax(dim=-1)).sum())
        divergence += float((ours.exp() * (ours - theirs)).sum())
        count += len(ours)
    return {"same_candidate": same / count, "divergence": divergence / count}


def draw(pipe: Pipeline, options: argparse.Namespace) -> tuple[torch.Tensor, dict[str, Any]]:
    """Draw images; return their tokens and scores."""
    prompts = scene_prompts(options.images // len(TAGS), options.seed)
    settings = pipe.settings.replaced(num_inference_steps=options.steps)
    tokens: list[torch.Tensor] = []

    def images() -> Iterator[Any]:
        for first in range(0, len(prompts), options.batch_size):
            part = [prompt["prompt"] for prompt in prompts[first : first + options.batch_size]]
            seeds = [options.seed + first + index for index in range(len(part))]
            result = pipe.start(part, settings, seed=seeds).output()
            tokens.append(result.tokens)
            yield from result.images

    scores = score_images(prompts, ([image] for image in images()))
    return torch.cat(tokens), {name: scores[name] for name in ("mean", *TAGS)}


def weight_error(pipe: Pipeline, variant: Pipeline) -> float:
    """Return the error of the layers' matrices, as a share of their size."""
    wrong = right = 0.0
    for (_, ours), (_, theirs) in zip(layer_matrices(pipe), layer_matrices(variant), strict=True):
        expected, found = (one.get_parameter("weight").detach().float() for one in (ours, theirs))
        wrong += float((found - expected).square().sum())
        right += float(expected.square().sum())
    return (wrong / right) ** 0.5


def outliers(pipe: Pipeline, states: list[State]) -> dict[str, dict[str, float]]:
    """Return how large the largest input of each matrix is: over the root mean square, and over the median channel."""
    most: dict[str, torch.Tensor] = {}
    squares: dict[str, tuple[float, int]] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def look(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2)
            largest = x.abs().amax(dim=0)
            most[name] = torch.maximum(most[name], largest) if name in most else largest
            total, count = squares.get(name, (0.0, 0))
            squares[name] = total + float(x.square().sum()), count + x.numel()

        return look

    # Matrices with the same input are looked at once.
    shared = ("q_proj", "o_proj", "gate_proj", "down_proj")
    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module in layer_matrices(pipe)
        if name.endswith(shared)
    ]
    for state in states:
        logits(pipe, *state)
    for handle in handles:
        handle.remove()
    return {
        name: {
            "over_rms": float(largest.max()) / (squares[name][0] / squares[name][1]) ** 0.5,
            "over_median_channel": float(largest.max() / largest.median()),
        }
        for name, largest in most.items()
    }


def report(found: dict[str, Any], options: argparse.Namespace) -> str:
    """Return Markdown: the outliers by layer, and a row a variant."""
    parts = {"q_proj": "q, k, v", "o_proj": "o", "gate_proj": "gate, up", "down_proj": "down"}
    lines = ["| layer | " + " | ".join(parts.values()) + " |", "| --- |" + " --- |" * len(parts)]
    layers = sorted({int(name.split(".")[1]) for name in found["outliers"]})
    for layer in layers:
        cells = []
        for part in parts:
            (one,) = (
                value
                for name, value in found["outliers"].items()
                if name.startswith(f"layers.{layer}.") and name.endswith(part)
            )
            cells.append(f"{one['over_rms']:.1f}; {one['over_median_channel']:.1f}")
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    lines += ["", "| weights | error | divergence | same candidate | same token | score | minus float32 |"]
    lines += ["| --- |" + " --- |" * 6]
    base = found[FLOAT32]["mean"]
    lines.append(f"| {FLOAT32} | | | | | {base:.3f} | |")
    for name in options.variants:
        row = found[name]
        lines.append(
            f"| {name} | {row['weight_error']:.4f} | {row['divergence']:.5f} | {row['same_candidate']:.1%} | "
            f"{row['same_token']:.1%} | {row['mean']:.3f} | {row['mean'] - base:+.3f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"experiment: {error}")
