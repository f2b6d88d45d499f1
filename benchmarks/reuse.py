"""Compare `reuse="prompt"` with the exact run: equal tokens, operations and seconds, for several intervals.

python benchmarks/reuse.py [--model FOLDER] [--every 2 4 8] [--prompts 24] [--steps N] [--device cpu] [--json]

Every image is drawn with the same seed and the model's own settings by each variant. Variants alternate, so that times
compare on a busy machine too. `tokens` is the share of tokens that equal the exact run's, `least` that of the image
with the fewest. The exact run with another seed shows how many agree by chance. `operations` counts the denoiser's
matrix products and attention. `seconds` is the time of all passes and draws, the median over images. Both are shares of
the exact run's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import torch
from measure import device_name, operations_of

import smalti
from smalti.errors import SmaltiError
from smalti.evaluation.suites.scenes.prompts import scene_prompts
from smalti.generation.result import PipelineOutput
from smalti.generation.settings import GenerationSettings
from smalti.pipeline import Pipeline
from smalti.worlds.tasks import TAGS

EXACT, OTHER_SEED = "exact", "exact, another seed"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or name on the hub; by default the bundled model")
    parser.add_argument(
        "--every",
        type=int,
        nargs="+",
        default=[2, 4, 8],
        help="steps between passes with the prompt",
    )
    parser.add_argument("--prompts", type=int, default=24, help="number of prompts, a multiple of 6")
    parser.add_argument("--steps", type=int, help="number of steps; by default the model's own")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--memory", help="memory to fit into, as for smalti generate")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    report = compare(options)
    if options.json:
        print(json.dumps(report))
        return
    print(
        f"{report['model']}, {report['device']}: {report['prompts']} images of {report['tokens']} tokens in "
        f"{report['steps']} steps; exact in {report['exact_seconds']:.3f} s\n"
    )
    print("variant                tokens   least   same images   operations   seconds")
    for row in report["rows"]:
        print(
            f"{row['name']:<20} {row['tokens']:>8.4f} {row['least']:>7.4f} {row['same_images']:>13} "
            f"{row['operations']:>12.3f} {row['seconds']:>9.3f}"
        )


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Draw every prompt by all variants, in turns."""
    if options.prompts < 1 or options.prompts % len(TAGS):
        raise SmaltiError(f"--prompts must be a multiple of {len(TAGS)}, not {options.prompts}")
    pipe = smalti.load(options.model, device=options.device, memory=options.memory)
    texts = [prompt["prompt"] for prompt in scene_prompts(options.prompts // len(TAGS), seed=0)]
    own = pipe.settings.replaced(num_inference_steps=options.steps, reuse="none")
    variants = {EXACT: own, OTHER_SEED: own}
    variants |= {
        f"every {every} steps": own.replaced(reuse="prompt", reuse_every=every) for every in options.every
    }
    found: dict[str, list[PipelineOutput]] = {name: [] for name in variants}
    operations = {name: _operations(pipe, texts[0], settings) for name, settings in variants.items()}
    for seed, text in enumerate(texts):
        for name, settings in variants.items():
            other = options.prompts if name == OTHER_SEED else 0
            found[name].append(_draw(pipe, text, seed + other, settings))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = []
    for name in list(variants)[1:]:
        pairs = list(zip(found[name], found[EXACT], strict=True))
        shares = [float((one.tokens == exact.tokens).float().mean()) for one, exact in pairs]
        ratio = statistics.median(one.seconds["denoise"] / exact.seconds["denoise"] for one, exact in pairs)
        rows.append(
            {
                "name": name,
                "tokens": round(statistics.mean(shares), 4),
                "least": round(min(shares), 4),
                "same_images": sum(share == 1 for share in shares),
                "operations": round(operations[name] / operations[EXACT], 4),
                "seconds": round(ratio, 4),
            }
        )
    exact = found[EXACT]
    return {
        "model": pipe.components.name,
        "device": device_name(options.device),
        "threads": torch.get_num_threads(),
        "prompts": options.prompts,
        "steps": own.num_inference_steps,
        "tokens": exact[0].tokens[0].numel(),
        "exact_seconds": round(statistics.median(one.seconds["denoise"] for one in exact), 4),
        "rows": rows,
    }


def _draw(pipe: Pipeline, text: str, seed: int, settings: GenerationSettings) -> PipelineOutput:
    return pipe(text, seed=seed, output_type="tokens", settings=settings)


def _operations(pipe: Pipeline, text: str, settings: GenerationSettings) -> int:
    """Count the denoiser's operations in all steps of one image."""
    found = []
    forward = pipe.denoiser.forward

    def counted(*arguments: Any) -> torch.Tensor:
        results: list[torch.Tensor] = []
        found.append(operations_of(lambda: results.append(forward(*arguments))))
        return results[0]

    pipe.denoiser.forward = counted
    try:
        _draw(pipe, text, 0, settings)
    finally:
        del pipe.denoiser.forward
    return sum(found)


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"benchmark: {error}")
