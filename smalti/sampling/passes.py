"""The passes of a step: which prompts and cells go through the denoiser, and what is kept for the next step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from smalti.model.cells import CellMemory
from smalti.model.denoiser import Denoiser
from smalti.model.light import LightMemory
from smalti.model.prompt import PromptBatch
from smalti.model.reuse import PromptMemory
from smalti.sampling.batches import Batch, make_batches
from smalti.sampling.guidance_passes import AllPasses, GuidancePasses
from smalti.sampling.reuse import CellView, NoReuse, Reuse


class Asked(NamedTuple):
    """What decides which cells a pass computes; each (B, n), by token.

    Attributes:
        expected: bool, positions that the step reveals, or would reveal by the last predictions.
        doubt: float32 in [0, 1], 1 − p(current) of visible tokens when last asked.
    """

    expected: torch.Tensor
    doubt: torch.Tensor


class Hidden(NamedTuple):
    """Hidden states of a step.

    Attributes:
        prompted: (B, n, D), with the prompt.
        without: (B, n, D), without it, or None without guidance.
        fresh: (B, n) bool, positions whose states are of this step.
    """

    prompted: torch.Tensor
    without: torch.Tensor | None
    fresh: torch.Tensor


@dataclass(eq=False)
class _Kept:
    """What is kept of the passes of b images with one kind of prompt.

    Attributes:
        memory: keys, values and outputs.
        tokens: (b, h, w) int64, what the last computation of each cell read; None before the first pass.
        age: (b, S) int64, steps since each cell was computed.
    """

    memory: PromptMemory | CellMemory | LightMemory | None
    tokens: torch.Tensor | None = None
    age: torch.Tensor | None = None


class Passes:
    """The passes of a generation of B images.

    Args:
        denoiser: the model.
        prompt: B prompts.
        negative: B prompts of the unconditional pass, or None without guidance.
        batched: whether the passes with and without the prompt are one batch.
        reuse: what passes take from earlier ones.
        skipping: which steps compute the unconditional pass.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompt: PromptBatch,
        negative: PromptBatch | None,
        *,
        batched: bool,
        reuse: Reuse | None = None,
        skipping: GuidancePasses | None = None,
    ) -> None:
        self._denoiser, self._prompt, self._negative = denoiser, prompt, negative
        self._reuse, self._skipping = reuse or NoReuse(), skipping or AllPasses()
        self._memory = self._reuse.memory
        if self._memory is PromptMemory and denoiser.config.conditioning != "sequence":
            self._memory = None
        # A memory belongs to one kind of pass, and a skipped pass must not age the other's.
        self._batched = batched and not (self._memory is not None and self._skipping.skips)
        self._active = self._batched_images = torch.ones(
            len(prompt), dtype=torch.bool, device=denoiser.device
        )
        self._batches = self._make_batches()
        self._kept: dict[tuple[int, str], _Kept] = {}
        self._differences: list[tuple[int, torch.Tensor]] = []

    @property
    def keeps_cells(self) -> bool:
        """Whether passes may compute some cells alone."""
        return self._memory is CellMemory

    def keep(self, active: torch.Tensor) -> None:
        """Pass only the images in `active`, (B,) bool, from now on, or from the next refresh on."""
        self._active = active
        # What is remembered stays together: computed afresh, it would make an image depend on when others end.
        if self._memory is None:
            self._make_anew()

    def hidden(self, tokens: torch.Tensor, guided: bool, step: tuple[int, int], asked: Asked) -> Hidden:
        """Return the hidden states of grids, (B, h, w) int64.

        Args:
            guided: whether the states without the prompt are wanted.
            step: (index, steps), the number of the step from 0 and how many there are.
            asked: what decides which cells are computed.
        """
        if self._memory is not None and self._reuse.refreshes(*step):
            self._kept.clear()
            self._make_anew()
        skipped = guided and bool(self._differences) and not self._skipping.computes(*step)
        shape = (*tokens.shape[:1], tokens[0].numel(), self._denoiser.config.hidden_size)
        hidden: torch.Tensor | None = None
        without: torch.Tensor | None = None
        fresh = torch.zeros(shape[:2], dtype=torch.bool, device=tokens.device)
        for number, batch in enumerate(self._batches):
            pairs = _prompts(batch, guided and not skipped)
            found: list[torch.Tensor] = []
            for name, prompts in pairs.items():
                kept = self._kept.setdefault(
                    (number, name), _Kept(None if self._memory is None else self._memory())
                )
                output, new = self._pass(kept, batch, prompts, tokens, asked)
                found += output.chunk(len(prompts) // len(batch.images))
                fresh[batch.images] |= new
            hidden = found[0].new_empty(shape) if hidden is None else hidden
            hidden[batch.images] = found[0]
            if len(found) == 2:
                without = hidden.new_empty(shape) if without is None else without
                without[batch.images] = found[1]
        assert hidden is not None  # at least one image is active
        if skipped:
            without = hidden - self._skipping.difference(self._differences, step[0])
        elif without is not None and self._skipping.skips:
            self._differences = [(step[0], hidden - without), *self._differences[:1]]
        return Hidden(hidden, without, fresh)

    def _pass(
        self, kept: _Kept, batch: Batch, prompt: PromptBatch, tokens: torch.Tensor, asked: Asked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the outputs of a batch, (k·b, n, D), and which positions are of this pass, (b, n) bool."""
        part, memory, config = tokens[batch.images], kept.memory, self._denoiser.config
        b, h, w = part.shape
        if kept.tokens is None or kept.age is None or not isinstance(memory, CellMemory):
            kept.tokens = part
            kept.age = torch.zeros(b, h * w // config.cell**2, dtype=torch.int64, device=part.device)
            return self._denoiser(part, prompt, memory), part.new_ones(b, h * w, dtype=torch.bool)

        def cells(values: torch.Tensor) -> torch.Tensor:
            maps = values.float().view(b, 1, h, w)
            return F.max_pool2d(maps, config.cell).flatten(1) if config.cell > 1 else maps.flatten(1)

        view = CellView(
            grid=(h // config.cell, w // config.cell),
            changed=cells(part != kept.tokens) > 0,
            expected=cells(asked.expected[batch.images]) > 0,
            doubt=cells(asked.doubt[batch.images]),
            age=kept.age + 1,
        )
        computed = self._reuse.computed(view) & self._active[batch.images][:, None]
        for rows, chosen in _groups(computed):
            repeats = len(prompt) // b
            of = torch.cat([rows + b * number for number in range(repeats)])
            memory.choose(of, chosen.repeat(repeats, 1))
            self._denoiser(part[rows], prompt if len(rows) == b else prompt.select(of), memory)
        kept.age = view.age.masked_fill(computed, 0)
        new = computed.view(b, *view.grid).repeat_interleave(config.cell, 1).repeat_interleave(config.cell, 2)
        kept.tokens = torch.where(new, part, kept.tokens)
        assert memory.output is not None
        return memory.output, new.flatten(1)

    def _make_anew(self) -> None:
        """Cut the batches of the images that are active now."""
        if not torch.equal(self._batched_images, self._active):
            self._batches = self._make_batches()
            self._batched_images = self._active

    def _make_batches(self) -> list[Batch]:
        return make_batches(self._prompt, self._negative, self._active, batched=self._batched)


def _prompts(batch: Batch, guided: bool) -> dict[str, PromptBatch]:
    """Return the prompts of a batch's passes by the name of what is kept of them."""
    if not guided:
        return {"prompt": batch.prompt}
    return (
        {"both": batch.guided[0]}
        if len(batch.guided) == 1
        else dict(zip(("prompt", "negative"), batch.guided, strict=True))
    )


def _groups(computed: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return images with equally many cells to compute, (r,) int64 each, with these cells, (r, N) int64."""
    counts = computed.sum(dim=1)
    groups = []
    for count in sorted(set(counts.tolist()) - {0}):
        rows = (counts == count).nonzero()[:, 0]
        groups.append((rows, computed[rows].nonzero()[:, 1].view(len(rows), count)))
    return groups
