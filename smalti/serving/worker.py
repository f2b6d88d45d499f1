"""A worker: the models of one device, and one batch at a time drawn with them. It knows nothing of queues and HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from PIL import Image

from smalti.common.images import to_images
from smalti.components import Components
from smalti.editing.edit import PreparedEdit, prepare_edit
from smalti.generation.drawing import start
from smalti.pipeline import Pipeline
from smalti.serving.previews import CodeColors
from smalti.serving.steps import Orders, Seen, look
from smalti.serving.tasks import Drawn, Piece, Task


class Watch(Protocol):
    """Whoever follows a batch: it says what is wanted of it, sees every step, and takes the results."""

    def orders(self) -> Orders:
        """Return what is wanted from the next step on; asked before the first step and after each."""
        ...

    def after(self, seen: Seen) -> None:
        """See a step."""
        ...

    def finished(self, image: int, drawn: Drawn) -> None:
        """Take an image of the batch."""
        ...


class Drawing(Protocol):
    """Whatever draws batches for a thread of the engine: a `Worker`, or one of another process."""

    def prepare(self, task: Task) -> PreparedEdit:
        """Select the tokens of an edit, as `Worker.prepare`."""
        ...

    def draw(self, pieces: Sequence[Piece], watch: Watch) -> None:
        """Draw a batch, as `Worker.draw`."""
        ...

    def warm_up(self) -> dict[str, float]:
        """Get ready, and return the pace of each model, as `Worker.warm_up`."""
        ...


class WorkerLost(Exception):
    """What drew a batch has gone away, and another try may find something that draws it."""


class Worker:
    """The models of one device. One thread alone may use it.

    Args:
        pipelines: models by name.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> task = Task("scenes", "a red circle", None, pipe.settings, (0,), (4, 0))
        >>> class Taking:
        ...     def orders(self): return Orders()
        ...     def after(self, seen): pass
        ...     def finished(self, image, drawn): print(drawn.image.size)
        >>> Worker({"scenes": pipe}).draw([Piece(task, 0)], Taking())
        (256, 256)
    """

    def __init__(self, pipelines: Mapping[str, Pipeline]) -> None:
        self.pipelines = dict(pipelines)
        self._colors = {name: CodeColors(pipe.components) for name, pipe in self.pipelines.items()}

    def prepare(self, task: Task) -> PreparedEdit:
        """Encode the image of an edit and select its tokens.

        Raises:
            SmaltiError: a mask that does not fit.
            NothingChosen: the likelihood of no token drops.
        """
        assert task.edit is not None
        return prepare_edit(
            self.pipelines[task.model].components,
            task.edit.source,
            task.prompt,
            task.edit.selection,
            task.settings,
            keep_pixels=task.edit.keep_pixels,
            blend=task.edit.blend,
            seed=list(task.seeds) or None,
        )

    def draw(self, pieces: Sequence[Piece], watch: Watch) -> None:
        """Draw images of one group as a batch. Each is bit for bit what it is alone.

        Args:
            pieces: images whose tasks have the same `Task.group`.
            watch: says what is wanted, sees every step and takes the images.
        """
        task = pieces[0].task
        components = self.pipelines[task.model].components
        tokens, editable = _grids(components, pieces)
        orders = watch.orders()
        generation = start(
            components,
            [piece.task.prompt for piece in pieces],
            task.settings,
            negative_prompt=[piece.task.negative_prompt or "" for piece in pieces]
            if task.lengths[1]
            else None,
            seed=[piece.task.seeds[piece.index] for piece in pieces],
            tokens=tokens,
            editable=editable,
            preview=orders.need_candidates(0),
        )
        for step in generation:
            watch.after(look(components, self._colors[task.model], step, orders))
            orders = watch.orders()
            for image in orders.dropped:
                generation.drop(image)
            if len(orders.dropped) == len(pieces):
                return
            generation.preview = orders.need_candidates(step.index + 1)
        drawn = generation.output("tokens")
        for image, piece in enumerate(pieces):
            if image not in orders.dropped:
                grid = drawn.tokens[image]
                made = (
                    piece.edit.images(components, grid[None])[0]
                    if piece.edit is not None
                    else _decoded(components, grid)
                )
                numbers = drawn.passes[image], drawn.tokens_edited[image], drawn.tokens_remasked[image]
                watch.finished(image, Drawn(made, grid, *numbers, piece.edit))

    def warm_up(self) -> dict[str, float]:
        """Draw an image with each model, so that the first request need not wait for what is set up once.

        Returns:
            Seconds of a pass by one token, by the model's name.
        """
        paces = {}
        for name, pipe in self.pipelines.items():
            settings = pipe.settings.replaced(num_inference_steps=4)
            drawn = [pipe("a", settings=settings, seed=0, output_type="tokens") for _ in range(2)][-1]
            paces[name] = drawn.seconds["denoise"] / sum(drawn.passes) / drawn.tokens.numel()
            self._colors[name].of(drawn.tokens[0])
            pipe.components.decode(drawn.tokens)
        return paces


def _grids(
    components: Components, pieces: Sequence[Piece]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the grids to start from and what of them may change, (B, h, w); None if all are drawn from nothing."""
    if not any(piece.edit for piece in pieces):
        return None, None
    height, width = pieces[0].task.settings.size
    shape = components.grid(height, width)
    blank, everything = torch.full(shape, components.mask_code), torch.ones(shape, dtype=torch.bool)
    tokens = [blank if piece.edit is None else piece.edit.start_tokens(components) for piece in pieces]
    editable = [everything if piece.edit is None else piece.edit.region.tokens for piece in pieces]
    return torch.stack(tokens), torch.stack(editable)


def _decoded(components: Components, grid: torch.Tensor) -> Image.Image:
    """Return the image of tokens (h, w)."""
    return to_images(components.decode(grid[None]))[0]
