"""Measure whether a model sees that a visible token is wrong: the AUC of its probability on swapped codes.

python experiments/visible_tokens.py [--model FOLDER] [--suite scenes] [--images 24] [--swapped 0.1] [--seed 0]

Some rules read the probability of tokens that are already set: path planning, token to mask, fallen confidence. A model
that was trained on masked tokens alone may copy what it sees. The script encodes ground-truth renderings, masks a part
of each grid, replaces a share of the visible codes and asks the model once. The AUC is the chance that a swapped token
has a lower probability than a true one of the same image: 1 is perfect, 0.5 is blind. Wrong codes come from three
sources:

- random: any other code, as in training with flips
- near: one of the eight codes nearest to the true one in the codebook
- own: a draw from the model's prediction for a grid of masks, as mistakes of sampling are

No guidance, no temperature: p is the model's distribution.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from typing import Any

import torch

import smalti
from smalti.common.randomness import stream
from smalti.errors import SmaltiError
from smalti.evaluation.request import Request
from smalti.evaluation.suite import find_suite
from smalti.ops.sample import sample_tokens
from smalti.pipeline import Pipeline

SOURCES = ("random", "near", "own")
SHARES = (0.25, 0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--suite", default="scenes", help="suite with ground-truth renderings")
    parser.add_argument("--images", type=int, default=24, help="number of images")
    parser.add_argument(
        "--swapped", type=float, default=0.1, help="share of the visible codes that are replaced"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the images and of the swaps")
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    options = parser.parse_args()
    pipe = smalti.load(options.model, device=options.device)
    suite = find_suite(options.suite)
    prompts = suite.prompts(options.images, options.seed)
    truths = suite.ground_truth(prompts, Request(seed=options.seed), pipe.settings.size)
    found: dict[tuple[str, float], list[float]] = {}
    for index, (prompt, sample) in enumerate(zip(prompts, truths, strict=True)):
        tokens = pipe.components.encode(torch.as_tensor(sample[0]).permute(2, 0, 1)[None])
        for source in SOURCES:
            for share in SHARES:
                random = stream(options.seed, f"{source} {share}", index)
                value = area(pipe, prompt["prompt"], tokens, source, share, options.swapped, random)
                found.setdefault((source, share), []).append(value)
    print(f"AUC of p(visible token) on swapped codes: mean over {len(prompts)} images ± standard error.\n")
    print("| wrong codes \\ visible | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |")
    print("| --- |" + " --- |" * len(SHARES))
    for source in SOURCES:
        print(f"| {source} | " + " | ".join(_cell(found[source, share]) for share in SHARES) + " |")


@torch.inference_mode()
def area(
    pipe: Pipeline,
    text: str,
    tokens: torch.Tensor,
    source: str,
    share: float,
    swapped: float,
    random: torch.Generator,
) -> float:
    """Return the AUC of one image whose tokens are (1, h, w) int64 on the CPU."""
    device, (height, width) = pipe.components.device, pipe.settings.size
    prompt = pipe.components.prompts([text], height, width)
    visible = torch.rand(tokens.shape, generator=random) < share
    wrong = visible & (torch.rand(tokens.shape, generator=random) < swapped)
    others = wrong_codes(pipe, prompt, tokens, source, random)
    wrong &= others != tokens
    grid = torch.where(wrong, others, tokens).masked_fill(~visible, pipe.components.mask_code).to(device)
    hidden = pipe.denoiser(grid, prompt)[0]
    choose = partial(sample_tokens, current_tokens=grid.flatten())
    choice = pipe.denoiser.gen_predictor.run(choose, hidden)
    now = choice.current_probability.cpu()
    bad, good = now[wrong.flatten()], now[(visible & ~wrong).flatten()]
    higher = (good[:, None] > bad).double() + 0.5 * (good[:, None] == bad).double()
    return float(higher.mean())


def wrong_codes(
    pipe: Pipeline, prompt: Any, tokens: torch.Tensor, source: str, random: torch.Generator
) -> torch.Tensor:
    """Return codes to swap in, (1, h, w) int64 on the CPU."""
    codes = pipe.denoiser.config.codebook_size
    if source == "random":
        return torch.randint(0, codes, tokens.shape, generator=random)
    if source == "near":
        book = pipe.image_tokenizer.quantize.embedding.weight.float().cpu()
        distances = torch.cdist(book[tokens.flatten()], book)
        near = distances.topk(9, largest=False).indices[:, 1:]
        place = torch.randint(0, near.shape[1], (len(near), 1), generator=random)
        return near.gather(1, place).view(tokens.shape)
    masks = torch.full_like(tokens, pipe.components.mask_code).to(pipe.components.device)
    hidden = pipe.denoiser(masks, prompt)[0]
    uniform = torch.rand(len(hidden), generator=random).to(hidden.device)
    choice = pipe.denoiser.gen_predictor.run(partial(sample_tokens, uniform=uniform), hidden)
    return choice.candidate.cpu().view(tokens.shape)


def _cell(values: list[float]) -> str:
    known = [value for value in values if value == value]
    return f"{statistics.fmean(known):.3f} ± {statistics.stdev(known) / len(known) ** 0.5:.3f}"


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"experiment: {error}")
