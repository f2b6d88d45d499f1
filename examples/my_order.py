"""Add an order, a budget and a masking rule from outside the package, then draw and train with them.

python examples/my_order.py [OUTPUT]

A rule is a frozen dataclass in the table of its kind; its fields are its parameters. The folder OUTPUT (default:
runs/my-order) gets an image, and a model that was trained for two steps with the masking rule.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import smalti
from smalti.common.randomness import Draws
from smalti.objective.masking import MASKINGS, Masked, Masking, MaskingContext
from smalti.sampling.budgets import BUDGETS, Budget
from smalti.sampling.orders import ORDERS, Order
from smalti.sampling.view import StepView
from smalti.storage.loading import BUNDLED_MODELS
from smalti.training.config import DenoiserRunConfig
from smalti.training.denoiser import train_denoiser
from smalti.training.reading import load_config


@dataclass(frozen=True)
class EntropyOrder(Order):
    """Reveal positions of low entropy first; the larger `middle` is, the more the middle of the image comes first."""

    middle: float = 0.0

    def priority(self, view: StepView) -> torch.Tensor:
        height, width = view.grid
        y, x = (torch.linspace(-1, 1, side, device=view.entropy.device) for side in (height, width))
        return -view.entropy - self.middle * torch.hypot(y[:, None], x[None, :]).flatten()


@dataclass(frozen=True)
class PowerBudget(Budget):
    """Reveal about the fraction t^power of the tokens in the fraction t of the steps."""

    power: float = 2.0

    def counts(self, tokens: int, steps: int) -> list[int]:
        reached = [round((tokens - steps) * (step / steps) ** self.power) for step in range(steps + 1)]
        return [1 + after - before for before, after in zip(reached, reached[1:], strict=False)]


@dataclass(frozen=True)
class CheckerMasking(Masking):
    """Mask the black squares of a checkerboard, or the white ones."""

    side: int = 2

    def mask(self, tokens: torch.Tensor, context: MaskingContext, draws: Draws) -> Masked:
        B, height, width = tokens.shape
        board = torch.arange(height)[:, None] // self.side + torch.arange(width)[None, :] // self.side
        half = draws.below(2, 1, 1)
        return Masked((board + half) % 2 == 0, torch.ones(B))


ORDERS["entropy"], BUDGETS["power"], MASKINGS["checker"] = EntropyOrder, PowerBudget, CheckerMasking


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    pipe = smalti.load("scenes")
    settings = pipe.settings.replaced(order="entropy:middle=0.5", budget="power:1.5")
    pipe("three blue stars", settings=settings, seed=0).images[0].save(output / "three-blue-stars.png")

    # Half of the training images get the new masking rule. A real training has thousands of steps.
    values = ["data={kind: scenes}", "objective.masking={'checker:side=4': 0.5, uniform: 0.5}"]
    values += [f"output={output}", f"cache.path={output / 'cache'}", "cache.samples=8", "loop.batch_size=4"]
    values += [
        f"start_from={BUNDLED_MODELS['scenes']}",
        f"tokenizer={BUNDLED_MODELS['scenes']}",
        "loop.steps=2",
    ]
    train_denoiser(load_config(DenoiserRunConfig, Path(__file__).parents[1] / "configs/folder.yaml", values))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/my-order"))
