"""The sampling loop: from a grid of masks to a grid of tokens, one `Step` at a time (docs/format.md, section 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate

import torch

from smalti.common.checks import check_choice, check_whole
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.model.reuse import PromptMemory
from smalti.ops.sample import TokenChoice, check_filters, sample_tokens
from smalti.sampling.adaptive import StepwiseBudget
from smalti.sampling.batches import Group, make_groups
from smalti.sampling.guidance import Guidance
from smalti.sampling.orders import ConfidenceOrder, Order
from smalti.sampling.ranking import first_among
from smalti.sampling.refinement import Refinement, code_frequencies
from smalti.sampling.revision import Editing, NoEditing
from smalti.sampling.schedules import Budget, ShiftBudget, TemperatureSchedule, check_steps
from smalti.sampling.view import Step, StepView


@dataclass(frozen=True)
class Sampler:
    """How to fill a grid: a composition of rules.

    Attributes:
        steps: passes of the denoiser, from 1 to the number of tokens; with a `StepwiseBudget` the most of them.
        budget: how many tokens each step reveals.
        order: which.
        editing: which visible ones change, and which are masked again.
        refinement: the last steps lay rare tokens again, or None. Each part of the steps has a budget and temperatures
            of its own. It needs a budget that is planned, not a `StepwiseBudget`.
        guidance: how strongly the prompt is followed.
        draw: "sample" draws candidates, "argmax" takes the likeliest.
        temperature: of the draw; 0 is argmax.
        temperature_schedule: multiplies the temperature step by step, or None.
        top_k, top_p: leave out unlikely tokens, or None.
        final: "grid" ends with the grid as it was filled; "release" as the release does: while editing is on,
            the last step's candidate at every position, edited or not.
        prompt_every: steps between passes that compute the prompt's positions; in the others their keys and values are
            those of an earlier step, an approximation. 1 is exact. It is for prompts in the sequence.
        guidance_batched: whether the passes with and without the prompt are computed as one batch, or one after
            the other, in less memory and with the same result up to rounding.
    """

    steps: int = 16
    budget: Budget = ShiftBudget()
    order: Order = ConfidenceOrder()
    editing: Editing = NoEditing()
    refinement: Refinement | None = None
    guidance: Guidance = Guidance()
    draw: str = "sample"
    temperature: float = 1.0
    temperature_schedule: TemperatureSchedule | None = None
    top_k: int | None = None
    top_p: float | None = None
    final: str = "grid"
    prompt_every: int = 1
    guidance_batched: bool = True

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_whole("prompt_every", self.prompt_every)
        check_filters(self.temperature, self.top_k, self.top_p)
        check_choice("draw", self.draw, ("sample", "argmax"))
        check_choice("final", self.final, ("grid", "release"))
        if self.refinement is not None and isinstance(self.budget, StepwiseBudget):
            raise SmaltiError(
                "refinement needs a budget that is planned ahead, not one that goes step by step"
            )

    def check(self, height: int, width: int) -> None:
        """Raise SmaltiError if this sampler cannot fill a grid of height × width tokens."""
        check_steps(self.steps, height * width)
        self.order.check(height, width)

    def temperatures(self) -> list[float]:
        """The temperature of the draw at every step."""
        schedule = self.temperature_schedule
        factors = [schedule.values(steps) if schedule else [1.0] * steps for steps in self.parts() if steps]
        return [self.temperature * factor for part in factors for factor in part]

    @property
    def foresees(self) -> bool:
        """Whether it is known before a pass which positions it will reveal."""
        planned = not isinstance(self.budget, StepwiseBudget)
        return planned and self.order.blind and not self.editing.remasking

    def parts(self) -> tuple[int, int]:
        """How many steps fill the grid, and how many refine it."""
        refining = self.refinement.steps(self.steps) if self.refinement else 0
        return self.steps - refining, refining


def sample(
    denoiser: Denoiser,
    prompt: PromptBatch,
    *,
    grid: tuple[int, int],
    sampler: Sampler,
    generators: list[torch.Generator],
    tokens: torch.Tensor | None = None,
    editable: torch.Tensor | None = None,
) -> Iterator[Step]:
    """Fill grids, yielding a `Step` after every pass of the denoiser. Stop by not asking for the next.

    Every random number is drawn from the image's own generator, for all positions of the grid in raster
    order, and prompts of different lengths are not computed together, so an image's tokens do not depend on
    its batch mates.

    Args:
        denoiser: the model.
        prompt: B prompts with `denoiser.config.slots(*grid)` slots, on the denoiser's device.
        grid: (h, w) in tokens.
        sampler: the rules.
        generators: B generators on the CPU.
        tokens: (B, h, w) int64, the grid to start from, the mask id where it is to be filled; None is all
            masks.
        editable: (B, h, w) bool, False at visible tokens that must stay as they are; None is True everywhere.

    Raises:
        SmaltiError: at once, before the first step, for anything that does not fit together.
    """
    height, width = grid
    config = denoiser.config
    slots = config.slots(height, width)
    sampler.check(height, width)
    B, shape = len(prompt), (len(prompt), height, width)
    if prompt.slots != slots:
        raise SmaltiError(
            f"prompts must reserve {slots} slots for a grid of {height}×{width}, not {prompt.slots}"
        )
    if len(generators) != B:
        raise SmaltiError(f"generators must be one an image, {B}, not {len(generators)}")
    device = denoiser.head.device
    if tokens is None:
        tokens = torch.full(shape, config.mask_code, device=device)
    if editable is None:
        editable = torch.ones(shape, dtype=torch.bool, device=device)
    for name, value, dtype in (("tokens", tokens, torch.int64), ("editable", editable, torch.bool)):
        if tuple(value.shape) != shape or value.dtype != dtype:
            raise SmaltiError(f"{name} must be {shape} {dtype}, not {tuple(value.shape)} {value.dtype}")
    tokens, editable = tokens.to(device).flatten(1), editable.to(device).flatten(1)
    masked = tokens == config.mask_code
    if bool(((tokens < 0) | (tokens >= config.codebook_size) & ~masked).any()):
        raise SmaltiError(
            f"tokens must be from 0 to {config.codebook_size - 1} or the mask {config.mask_code}"
        )
    if bool((masked & ~editable).any()):
        raise SmaltiError("editable must be True wherever tokens hold the mask")
    return _steps(denoiser, prompt, grid, sampler, generators, tokens, editable)


def _steps(
    denoiser: Denoiser,
    prompt: PromptBatch,
    grid: tuple[int, int],
    sampler: Sampler,
    generators: list[torch.Generator],
    tokens: torch.Tensor,
    editable: torch.Tensor,
) -> Iterator[Step]:
    """The loop of `sample`; tokens and editable are (B, n)."""
    steps, device, mask = sampler.steps, tokens.device, denoiser.config.mask_code
    stepwise = isinstance(sampler.budget, StepwiseBudget)
    masked = tokens == mask
    filling, refining = sampler.parts()
    planned = torch.cat(
        [_planned(sampler, masked, filling), masked.new_zeros(len(tokens), refining).long()], dim=1
    )
    frequencies = code_frequencies(denoiser, prompt, grid) if refining else None
    temperatures = sampler.temperatures()
    confidence = zeros = torch.zeros(masked.shape, device=device)
    past: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()
    active = torch.ones(len(tokens), dtype=torch.bool, device=device)
    grouped = partial(
        make_groups, prompt, guided=sampler.guidance.scale > 0, batched=sampler.guidance_batched
    )
    groups = grouped(active)
    remembers = sampler.prompt_every > 1 and denoiser.config.conditioning == "sequence"
    memories: list[dict[bool, list[PromptMemory]]] | None = None
    for index in range(steps):
        if remembers and index % sampler.prompt_every == 0:
            # One for every batch that is passed, by whether guidance is on.
            memories = [
                {False: [PromptMemory()], True: [PromptMemory() for _ in group.guided]} for group in groups
            ]
        uniform = _noise(generators, tokens) if sampler.draw == "sample" else None
        noise = _noise(generators, tokens) if sampler.order.noisy else None
        visible = editable & ~masked & active[:, None]
        part = (index, filling) if index < filling else (index - filling, refining)
        view = StepView(
            index=part[0],
            steps=part[1],
            grid=grid,
            masked=masked,
            visible=visible,
            tokens=tokens,
            candidate=tokens,
            probability=zeros,
            current_probability=zeros,
            entropy=zeros,
            noise=noise,
            confidence=confidence,
            remaining=planned[:, index],
            past=past,
        )
        foreseen = _to_reveal(sampler, view) if sampler.foresees else None
        asked = masked if foreseen is None else foreseen
        if sampler.editing.enabled:
            asked = asked | visible
        rows = asked.flatten().nonzero()[:, 0]
        choice = _predict(
            denoiser,
            groups,
            tokens.unflatten(1, grid),
            rows,
            None if uniform is None else uniform.flatten()[rows],
            sampler,
            sampler.guidance.at(index, steps),
            temperatures[index],
            memories,
        )
        if bool(choice.probability.isnan().any()):
            raise SmaltiError("the denoiser's output is not finite: its weights or its dtype are unfit")
        current = _spread(choice.current_probability, rows, zeros)
        view = replace(
            view,
            candidate=_spread(choice.candidate, rows, tokens),
            probability=_spread(choice.probability, rows, zeros),
            current_probability=current,
            entropy=_spread(choice.entropy, rows, zeros),
            confidence=torch.maximum(confidence, current),
        )
        if stepwise:
            view = replace(view, remaining=sampler.budget.remaining(view))
        # Where nothing is left to reveal afterwards, nothing may be masked again.
        remasked = sampler.editing.remasks(view) & visible & (view.remaining > 0)[:, None]
        edited = sampler.editing.changes(view) & visible & ~remasked
        revealed = _to_reveal(sampler, view, remasked) if foreseen is None else foreseen
        tokens = torch.where(revealed | edited, view.candidate, tokens).masked_fill(remasked, mask)
        masked = masked & ~revealed | remasked
        past = ((view.candidate, view.probability), *past)[: sampler.order.past]
        if refining and index == filling - 1:
            # The grid is full; what is rare starts anew.
            masked = editable & (frequencies.gather(1, tokens) < sampler.refinement.frequency)
            remasked, tokens = remasked | masked, tokens.masked_fill(masked, mask)
            planned[:, filling:], past = _planned(sampler, masked, refining), ()
        confidence = torch.where(revealed | edited, view.probability, view.confidence).masked_fill(masked, 0)
        ended = ~masked.any(dim=1) if stepwise else torch.full_like(active, index == steps - 1)
        if sampler.final == "release":
            # Where nothing was asked for, the candidate is the token that is there.
            tokens = torch.where(ended[:, None], view.candidate, tokens)
        parts = [part.unflatten(1, grid) for part in (tokens, revealed, edited, remasked, view.probability)]
        yield Step(index, steps, *parts, active)
        if stepwise:
            if bool(ended.all()):
                return
            # Remembered prompts stay together: computed anew, they would make an image depend on when others end.
            if not remembers and not torch.equal(active, ~ended):
                groups = grouped(~ended)
            active = ~ended


@torch.inference_mode()
def _predict(
    denoiser: Denoiser,
    groups: list[Group],
    tokens: torch.Tensor,
    rows: torch.Tensor,
    uniform: torch.Tensor | None,
    sampler: Sampler,
    scale: float,
    temperature: float,
    memories: list[dict[bool, list[PromptMemory]]] | None,
) -> TokenChoice:
    """One pass over tokens (B, h, w), and a choice for the rows (of B·h·w) that can change."""
    B, h, w = tokens.shape
    shape = (B, h * w, denoiser.config.hidden_size)
    hidden = uncond = None
    for number, group in enumerate(groups):
        part = tokens[group.images]
        remembered = memories[number][scale != 0] if memories else [None] * max(1, len(group.guided))
        if scale:
            # Conditional and unconditional, as one batch or one after the other.
            passes = [
                denoiser(part, batch, memory) for batch, memory in zip(group.guided, remembered, strict=True)
            ]
            found, without = passes if len(passes) == 2 else passes[0].chunk(2)
            uncond = without.new_empty(shape) if uncond is None else uncond
            uncond[group.images] = without
        else:
            found = denoiser(part, group.prompt, remembered[0])
        hidden = found.new_empty(shape) if hidden is None else hidden
        hidden[group.images] = found
    hidden = hidden.flatten(0, 1)[rows]
    uncond = None if uncond is None else uncond.flatten(0, 1)[rows]
    return sample_tokens(
        hidden,
        denoiser.head,
        uniform,
        hidden_uncond=uncond,
        guidance_scale=scale,
        temperature=temperature,
        top_k=sampler.top_k,
        top_p=sampler.top_p,
        current_tokens=tokens.flatten()[rows] if sampler.editing.enabled else None,
    )


def _to_reveal(sampler: Sampler, view: StepView, remasked: torch.Tensor | None = None) -> torch.Tensor:
    """(B, n) bool: the masked positions that a step reveals, as many as leave `view.remaining` masked after it."""
    counts = view.masked.sum(dim=1) - view.remaining
    if remasked is not None:
        counts = counts + remasked.sum(dim=1)
    first = [sampler.budget.sure(view)] if isinstance(sampler.budget, StepwiseBudget) else []
    return first_among(view.masked, counts, *first, sampler.order.priority(view))


def _spread(values: torch.Tensor | None, rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """`values` at `rows` of the flattened (B, n) grid, `others` elsewhere, everywhere without values."""
    return others if values is None else others.flatten().scatter(0, rows, values).view(others.shape)


def _planned(sampler: Sampler, masked: torch.Tensor, steps: int) -> torch.Tensor:
    """(B, steps) int64: how many of its positions each image has masked after each of so many steps, by the budget.

    An image with fewer masks than steps is full after as many steps as it had masks.
    """
    rows = []
    for count in masked.sum(dim=1).tolist():
        counts = sampler.budget.counts(count, min(steps, count)) if count else []
        reached = list(accumulate(counts))
        rows.append([count - number for number in reached] + [0] * (steps - len(counts)))
    return torch.tensor(rows, device=masked.device)


def _noise(generators: list[torch.Generator], like: torch.Tensor) -> torch.Tensor:
    """(B, n) uniform numbers in [0, 1), each row from its image's generator."""
    return torch.stack([torch.rand(like.shape[1], generator=generator) for generator in generators]).to(
        like.device
    )
