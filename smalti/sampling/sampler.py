"""The sampling loop: from a grid of masks to a grid of tokens, one `Step` at a time (docs/format.md, section 5)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from smalti.common.checks import check_choice
from smalti.errors import SmaltiError
from smalti.model.classifier import TokenClassifier
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.sampling.budgets import ShiftBudget
from smalti.sampling.curves import check_steps
from smalti.sampling.guidance import Guidance
from smalti.sampling.guidance_passes import AllPasses, GuidancePasses
from smalti.sampling.kinds import Budget, Order
from smalti.sampling.orders import ConfidenceOrder
from smalti.sampling.predictor import Draw, Predictor
from smalti.sampling.ranking import first_among
from smalti.sampling.refinement import NoRefinement, Refinement
from smalti.sampling.reuse import NoReuse, Reuse
from smalti.sampling.revision import NoRevision, Revision
from smalti.sampling.state import Change, State, random_numbers, start_state
from smalti.sampling.steering import NoSteering, Steering
from smalti.sampling.temperatures import ConstantTemperature, TemperatureSchedule
from smalti.sampling.verifier import Verifier
from smalti.sampling.view import Control, Step, StepView


@dataclass(frozen=True)
class Sampler:
    """How to fill a grid: a composition of rules.

    Example:
        >>> from smalti.sampling.orders import HaltonOrder
        >>> Sampler(steps=8, order=HaltonOrder(), guidance=Guidance(1.0)).parts()
        (8, 0)

    Attributes:
        steps: number of passes of the denoiser, from 1 to the number of tokens; the largest number of them with a
            budget that is not planned.
        budget: how many tokens each step reveals.
        order: which tokens a step reveals.
        revision: which visible tokens change, and which are masked again.
        refinement: how the last steps sample some tokens again. Each part of the steps has a budget and temperatures of
            its own. It needs a planned budget.
        guidance: how strongly the prompt is followed.
        steering: what tilts the model's distributions towards something that the prompt leaves open.
        draw: how candidates are drawn.
        argmax: whether the most probable candidate is taken instead of a draw.
        temperature_schedule: rule that multiplies the temperature step by step.
        final: "grid" ends with the grid as it was filled. "release" ends as the reference model does: while revision is
            on, with the last step's candidate at every position.
        reuse: what passes take from earlier ones. Anything but nothing is an approximation.
        guidance_passes: which guided steps compute the unconditional pass. Anything but all is an approximation.
        guidance_batched: whether the passes with and without the prompt are computed as one batch. One after the other
            takes less memory and gives the same result up to rounding.
    """

    steps: int = 16
    budget: Budget = ShiftBudget()
    order: Order = ConfidenceOrder()
    revision: Revision = NoRevision()
    refinement: Refinement = NoRefinement()
    guidance: Guidance = Guidance()
    steering: Steering = NoSteering()
    draw: Draw = Draw()
    argmax: bool = False
    temperature_schedule: TemperatureSchedule = ConstantTemperature()
    final: str = "grid"
    reuse: Reuse = NoReuse()
    guidance_passes: GuidancePasses = AllPasses()
    guidance_batched: bool = True

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_choice("final", self.final, ("grid", "release"))
        if self.refinement.steps(self.steps) and not self.budget.planned:
            raise SmaltiError(
                "refinement needs a budget that is planned, not one that decides after every pass",
                argument="refinement",
            )

    def check(self, height: int, width: int) -> None:
        """Raise SmaltiError if this sampler cannot fill a grid of height × width tokens."""
        check_steps(self.steps, height * width)
        self.order.check(height, width)

    def temperatures(self) -> list[float]:
        """Return the temperature of the draw at every step."""
        factors = [self.temperature_schedule.values(steps) for steps in self.parts() if steps]
        return [self.draw.temperature * factor for part in factors for factor in part]

    @property
    def foresees(self) -> bool:
        """Whether it is known before a pass which positions it will reveal."""
        return self.budget.planned and self.order.fixed and not self.revision.remasking

    @property
    def noisy(self) -> bool:
        """Whether a rule reads random numbers."""
        return self.order.noisy or self.revision.noisy

    def parts(self) -> tuple[int, int]:
        """Return how many steps fill the grid, and how many refine it."""
        refining = self.refinement.steps(self.steps)
        return self.steps - refining, refining

    def plan(self, masked: torch.Tensor, steps: int) -> torch.Tensor:
        """Return how many positions stay masked after each of so many steps by the budget's plan, (B, steps) int64.

        An image with fewer masks than steps is full after as many steps as it had masks.

        Args:
            masked: (B, n) bool.
        """
        rows = []
        for count in masked.sum(dim=1).tolist():
            counts = self.budget.counts(count, min(steps, count)) if count else []
            rows.append([count - number for number in accumulate(counts)] + [0] * (steps - len(counts)))
        return torch.tensor(rows, device=masked.device)

    def reveals(self, view: StepView, remasked: torch.Tensor | None = None) -> torch.Tensor:
        """Return the masked positions to reveal, (B, n) bool: as many as leave `view.remaining` masked afterwards."""
        counts = view.masked.sum(dim=1) - view.remaining
        if remasked is not None:
            counts = counts + remasked.sum(dim=1)
        first = self.budget.first(view)
        keys = [self.order.priority(view)] if first is None else [first, self.order.priority(view)]
        return first_among(view.masked, counts, *keys)

    def expects(self, view: StepView) -> torch.Tensor:
        """Return the positions that the rules would reveal if the view were that after the pass, (B, n) bool."""
        return self.decide(replace(view, remaining=self.budget.remaining(view)), None).revealed

    def decide(self, view: StepView, revealed: torch.Tensor | None) -> Change:
        """Return what the rules make of a step; `revealed` is given where it was known before the pass."""
        # Where nothing is left to reveal afterwards, nothing may be masked again.
        remasked = self.revision.remasks(view) & view.visible & (view.remaining > 0)[:, None]
        edited = self.revision.changes(view) & view.visible & ~remasked
        return Change(self.reveals(view, remasked) if revealed is None else revealed, edited, remasked)


def sample(
    denoiser: Denoiser,
    prompt: PromptBatch,
    *,
    grid: tuple[int, int],
    sampler: Sampler,
    generators: list[torch.Generator],
    negative: PromptBatch | None = None,
    tokens: torch.Tensor | None = None,
    editable: torch.Tensor | None = None,
    preview: bool = False,
    verifier: Verifier | None = None,
    classifier: TokenClassifier | None = None,
) -> Generator[Step, Control | None, None]:
    """Fill grids, yielding a `Step` after every pass of the denoiser. Close the generator to stop early.

    Send a `Control` in place of None to leave images out of the next steps, to switch the preview on or off, or to
    replace the grids.

    Every random number is drawn from the image's own generator, for all positions of the grid in raster order. Prompts
    of different lengths are not computed together. So an image's tokens do not depend on its batch mates.

    Args:
        denoiser: the model.
        prompt: B prompts with `denoiser.config.slots(*grid)` slots, on the denoiser's device.
        grid: (h, w) in tokens.
        sampler: the rules.
        generators: B generators on the CPU.
        negative: B prompts in place of the empty one in the unconditional pass, or None.
        tokens: (B, h, w) int64, the grid to start from, the mask id where it is to be filled; None is all masks.
        editable: (B, h, w) bool, False at visible tokens that must stay as they are; None is True everywhere.
        preview: whether `Step.candidate` is wanted at every masked position. It costs time and changes no token.
        verifier: second model with B prompts, for budgets that ask one what to accept, or None.
        classifier: classifier over tokens, for steering rules that ask one, or None.

    Raises:
        SmaltiError: at once, before the first step, for anything that does not fit together.

    Example:
        >>> import smalti
        >>> parts = smalti.load("scenes").components
        >>> steps = sample(parts.denoiser, parts.prompts(["a red circle"], 256, 256), grid=(16, 16),
        ...                sampler=Sampler(steps=4), generators=[torch.Generator().manual_seed(0)])
        >>> [int(step.revealed.sum()) for step in steps]
        [16, 27, 53, 160]
    """
    sampler.check(*grid)
    slots = denoiser.config.slots(*grid)
    for name, batch in (("prompts", prompt), ("negative", negative)):
        if batch is not None and batch.slots != slots:
            raise SmaltiError(
                f"{name} must reserve {slots} slots for a grid of {grid[0]}×{grid[1]}, not {batch.slots}",
                argument=name,
            )
    for name, items in (("generators", generators), ("negative", negative)):
        if items is not None and len(items) != len(prompt):
            raise SmaltiError(f"{name} must be one an image, {len(prompt)}, not {len(items)}", argument=name)
    if sampler.budget.verifies and verifier is None:
        raise SmaltiError(
            "this budget asks a second model what to accept, and none is loaded", argument="budget"
        )
    sampler.steering.check(classifier, denoiser.config.codebook_size)
    sampler.reuse.check(denoiser)
    state = start_state(denoiser, (len(prompt), *grid), tokens, editable)
    predictor = Predictor(
        denoiser,
        prompt,
        sampler.guidance,
        negative=negative,
        guidance_batched=sampler.guidance_batched,
        guidance_passes=sampler.guidance_passes,
        reuse=sampler.reuse,
        recent=max(sampler.order.recent, sampler.budget.recent),
        steering=sampler.steering,
        classifier=classifier,
    )
    return _steps(predictor, sampler, generators, state, preview, verifier)


def _steps(
    predictor: Predictor,
    sampler: Sampler,
    generators: list[torch.Generator],
    state: State,
    preview: bool,
    verifier: Verifier | None,
) -> Generator[Step, Control | None, None]:
    """Run the loop of `sample`."""
    steps, (filling, refining) = sampler.steps, sampler.parts()
    plan = sampler.plan(state.masked, filling)
    rare = sampler.refinement.finder(predictor.denoiser, predictor.prompt, state.grid) if refining else None
    temperatures = sampler.temperatures()
    for index in range(steps):
        part, length = (index, filling) if index < filling else (index - filling, refining)
        uniform = None if sampler.argmax else random_numbers(generators, state.tokens)
        noise = random_numbers(generators, state.tokens) if sampler.noisy else None
        view = state.view(part, length, plan[:, part], noise)
        revealed = sampler.reveals(view) if sampler.foresees else None
        asked = view.masked if revealed is None or preview else revealed
        if sampler.revision.enabled:
            asked = asked | view.visible
        asked = asked & state.active[:, None]
        draw = replace(sampler.draw, temperature=temperatures[index])
        current = sampler.revision.enabled
        expected = revealed
        if revealed is None and predictor.guesses:
            expected = sampler.expects(predictor.last(view))
        view = predictor.look(
            view,
            asked,
            draw=draw,
            uniform=uniform,
            current=current,
            step=(index, steps),
            expected=expected,
        )
        if verifier is not None and sampler.budget.verifies:
            view = verifier.judge(view, state.active)
        view = replace(view, remaining=sampler.budget.remaining(view))
        change = sampler.decide(view, revealed)
        state.apply(view, change, past=sampler.order.past)
        if rare is not None and index == filling - 1:
            change = change._replace(remasked=change.remasked | state.remask(rare(state.tokens)))
            plan = sampler.plan(state.masked, refining)
            predictor.forget()
        full = ~state.masked.any(dim=1)
        ended = torch.full_like(full, index == steps - 1) if sampler.budget.planned else full
        if sampler.final == "release":
            # Where the head was not applied, the candidate is the token that is there.
            state.tokens = torch.where(ended[:, None], view.candidate, state.tokens)
        control = yield state.step(index, steps, view, change, sampler.reuse.passes(index, steps))
        if control is not None:
            preview, state.active = control.preview, state.active & control.images.to(full.device)
            if control.tokens is not None:
                state.replace(control.tokens.to(full.device).flatten(1))
        if not sampler.budget.planned:
            state.active = state.active & ~ended
        if control is not None or not sampler.budget.planned:
            if not bool(state.active.any()):
                return
            predictor.keep(state.active)
