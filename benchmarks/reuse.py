"""Compare settings that reuse earlier steps with the exact run: tokens, score, operations and processor time.

python benchmarks/reuse.py [--model FOLDER] [--prompts 24] [--steps N] [--variants SETTING=RULE ...] [--json]
python benchmarks/reuse.py --layers 4 [--hidden 1024] [--codes 131072] [--size 1024] [--prompts 1] ...

Several settings of a variant are joined by semicolons: "reuse=cells;guidance_passes=skip". Every image is drawn with
the same seed and otherwise the model's own settings. Variants alternate, so that times compare on a busy machine too.

`tokens` is the share of tokens that equal the exact run's, `least` that of the image with the fewest. With
--other-seed, the exact run with another seed shows how many agree by chance. `score` is that of the suite `scenes`.
`better` and `worse` are the images that it counts as correct in one of the two runs alone. `seconds` is the processor
time of all steps.
`operations` are those of the layers, summed over passes and layers, a multiply-add being two:

    rows · (2 · P + 4 · K · heads · head_dim)

Here `rows` are the positions whose queries a pass computes, P is the number of values in a layer's matrices, and K is
the number of keys. `operations` and `seconds` are sums over the images, as shares of the exact run's.

With --layers the weights are random and the layers have the reference model's proportions, as in benchmarks/release.py.
Settings are then the reference model's, and nothing is scored.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from measure import DTYPES, device_name
from release import make_model, make_prompt

import smalti
from smalti.common.images import to_pil
from smalti.errors import SmaltiError
from smalti.evaluation.suites.scenes.prompts import scene_prompts
from smalti.evaluation.suites.scenes.score import score_scene
from smalti.generation.build import make_sampler
from smalti.generation.settings import GenerationSettings, preset_settings
from smalti.model import backbone
from smalti.model.denoiser import Denoiser
from smalti.sampling.sampler import sample
from smalti.worlds.tasks import TAGS

EXACT, OTHER_SEED = "exact", "exact, another seed"
Draw = Callable[[list[int], list[int], GenerationSettings], torch.Tensor]
Score = Callable[[int, torch.Tensor], bool]


@dataclass
class Found:
    """What a variant drew: tokens and scores of the images, operations and seconds of all of them."""

    tokens: list[torch.Tensor]
    right: list[bool]
    operations: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--memory", help="memory to fit into, as for smalti generate")
    parser.add_argument("--layers", type=int, help="number of layers of a model with random weights")
    parser.add_argument("--hidden", type=int, default=1024, help="its width")
    parser.add_argument("--codes", type=int, default=131072, help="number of its codes")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of its weights")
    parser.add_argument("--size", type=int, default=1024, help="side of its images in pixels")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="settings of every run")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["reuse=prompt", "reuse=cells", "guidance_passes=skip", "reuse=cells;guidance_passes=skip"],
        metavar="SETTING=RULE",
        help="settings to compare, several joined by semicolons",
    )
    parser.add_argument(
        "--prompts", type=int, default=24, help="number of images, a multiple of 6 if they are scored"
    )
    parser.add_argument("--batch", type=int, default=6, help="images that are drawn together")
    parser.add_argument("--other-seed", action="store_true", help="draw the exact run with another seed, too")
    parser.add_argument("--steps", type=int, help="number of steps; by default the model's own")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    report = compare(options)
    if options.json:
        print(json.dumps(report))
        return
    print(
        f"{report['model']}, {report['device']}, {report['threads']} threads: {report['prompts']} images of "
        f"{report['tokens']} tokens in {report['steps']} steps; exact in {report['exact_seconds']:.3f} s an image, "
        f"score {report['exact_score']}\n"
    )
    print("  tokens   least   same images    score  better  worse  operations  seconds  variant")
    for row in report["rows"]:
        print(
            f"{row['tokens']:>8.4f} {row['least']:>7.4f} {row['same_images']:>13} {row['score']!s:>8} "
            f"{row['better']:>7} {row['worse']:>6} {row['operations']:>11.4f} {row['seconds']:>8.4f}  {row['name']}"
        )


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Draw every image by all variants, in turns."""
    denoiser, own, draw, score = bundled(options) if options.layers is None else random_weights(options)
    own = own.replaced(num_inference_steps=options.steps, **_settings(options.set))
    variants = {EXACT: own, **({OTHER_SEED: own} if options.other_seed else {})}
    variants |= {text: own.replaced(**_settings(text.split(";"))) for text in options.variants}
    found = {name: Found([], [], 0, 0.0) for name in variants}
    for start in range(0, options.prompts, options.batch):
        numbers = list(range(start, min(start + options.batch, options.prompts)))
        for name, settings in variants.items():
            seeds = [number + (options.prompts if name == OTHER_SEED else 0) for number in numbers]
            tokens, operations, seconds = _counted(denoiser, draw, numbers, seeds, settings)
            found[name].operations += operations
            found[name].seconds += seconds
            for number, one in zip(numbers, tokens, strict=True):
                same = name != EXACT and torch.equal(one, found[EXACT].tokens[number])
                found[name].tokens.append(one)
                found[name].right.append(found[EXACT].right[number] if same else score(number, one))
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    exact = found.pop(EXACT)
    rows = []
    for name, one in found.items():
        shares = [float((a == b).float().mean()) for a, b in zip(one.tokens, exact.tokens, strict=True)]
        pairs = list(zip(one.right, exact.right, strict=True))
        rows.append(
            {
                "name": name,
                "tokens": round(statistics.mean(shares), 4),
                "least": round(min(shares), 4),
                "same_images": sum(share == 1 for share in shares),
                "score": round(statistics.mean(one.right), 4),
                "better": pairs.count((True, False)),
                "worse": pairs.count((False, True)),
                "operations": round(one.operations / exact.operations, 4),
                "seconds": round(one.seconds / exact.seconds, 4),
            }
        )
    return {
        "model": options.model if options.layers is None else f"{options.layers} layers",
        "device": device_name(options.device),
        "threads": torch.get_num_threads(),
        "prompts": options.prompts,
        "steps": own.num_inference_steps,
        "tokens": exact.tokens[0].numel(),
        "exact_seconds": round(exact.seconds / options.prompts, 4),
        "exact_operations": exact.operations / options.prompts,
        "exact_score": round(statistics.mean(exact.right), 4),
        "rows": rows,
    }


def bundled(options: argparse.Namespace) -> tuple[Denoiser, GenerationSettings, Draw, Score]:
    """Return a stored model with its settings, and how it draws and scores an image of the suite's prompts."""
    if options.prompts < 1 or options.prompts % len(TAGS):
        raise SmaltiError(f"--prompts must be a multiple of {len(TAGS)}, not {options.prompts}")
    pipe = smalti.load(options.model, device=options.device, memory=options.memory)
    prompts = scene_prompts(options.prompts // len(TAGS), seed=0)

    def draw(numbers: list[int], seeds: list[int], settings: GenerationSettings) -> torch.Tensor:
        texts = [prompts[number]["prompt"] for number in numbers]
        return pipe(texts, seed=seeds, output_type="tokens", settings=settings).tokens

    def score(number: int, tokens: torch.Tensor) -> bool:
        pixels = pipe.components.decode(tokens[None])[0].permute(1, 2, 0)
        return score_scene(prompts[number], [to_pil(pixels.numpy())]).correct[0]

    return pipe.denoiser, pipe.settings, draw, score


def random_weights(options: argparse.Namespace) -> tuple[Denoiser, GenerationSettings, Draw, Score]:
    """Return a model of the reference model's proportions with its settings, and how it draws."""
    options.vq_channels = 32
    device = torch.device(options.device)
    denoiser, tokenizer = make_model(options, device, DTYPES[options.dtype])
    side = options.size // tokenizer.config.downscale
    prompt = make_prompt(denoiser.config.slots(side, side)).to(device)

    def draw(numbers: list[int], seeds: list[int], settings: GenerationSettings) -> torch.Tensor:
        sampler = make_sampler(settings)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        batch = prompt.repeat_interleave(len(seeds))
        *_, last = sample(denoiser, batch, grid=(side, side), sampler=sampler, generators=generators)
        return last.tokens.cpu()

    return denoiser, preset_settings(GenerationSettings(), "balanced", {}, {}), draw, lambda *_: True


def _counted(
    denoiser: Denoiser, draw: Draw, numbers: list[int], seeds: list[int], settings: GenerationSettings
) -> tuple[torch.Tensor, int, float]:
    """Return the tokens of some images, the operations of the layers, and the processor time in seconds."""
    values = sum(weight.numel() for weight in denoiser.layers[0].parameters() if weight.ndim > 1)
    operations = 0

    def attend(query: torch.Tensor, key: torch.Tensor, *rest: Any) -> torch.Tensor:
        nonlocal operations
        B, heads, rows, head_dim = query.shape
        operations += B * rows * (2 * values + 4 * key.shape[2] * heads * head_dim)
        return _attend(query, key, *rest)

    _attend = backbone.attend
    with mock.patch.object(backbone, "attend", attend):
        started = time.process_time()
        tokens = draw(numbers, seeds, settings)
        return tokens, operations, time.process_time() - started


def _settings(parts: list[str]) -> dict[str, Any]:
    """Return settings by name from words such as "reuse=cells"."""
    return {name: value for name, _, value in (part.partition("=") for part in parts)}


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"benchmark: {error}")
