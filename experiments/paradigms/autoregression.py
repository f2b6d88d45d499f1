"""Autoregression: cell by cell in raster order, and token by token inside a cell, with a key/value cache.

The backbone runs once a cell, under a causal mask; the prompt's positions see each other. A small network then predicts
the four tokens of the cell in turn, each from the backbone's vector and the cell's earlier tokens. The factorisation is
exact: every token is drawn given all tokens before it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from paradigms.backbone import CELL, embed_text, from_cells, run_backbone, to_cells
from smalti.errors import SmaltiError
from smalti.model.backbone import FeedForward, RMSNorm
from smalti.model.config import DenoiserConfig
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import PromptBatch
from smalti.ops.sample import sample_tokens

TOKENS = CELL * CELL  # of a cell


@dataclass(frozen=True)
class AutoregressiveSettings:
    """How tokens are drawn; the fields have the meanings of `sample_tokens`."""

    guidance_scale: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


class CellHead(nn.Module):
    """Vectors of a cell's tokens from the backbone's vectors and the earlier tokens of the cell."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.earlier = nn.ModuleList(nn.Linear(place * dim, dim, bias=False) for place in range(1, TOKENS))
        self.norm = RMSNorm(dim, config.rms_norm_eps)
        self.mlp = FeedForward(dataclasses.replace(config, intermediate_size=dim))
        self.last = RMSNorm(dim, config.rms_norm_eps)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Set the weights so that the earlier tokens count from the start, and the network adds nothing yet."""
        for layer in self.earlier:
            layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
        for layer in (self.mlp.gate_proj, self.mlp.up_proj):
            layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
        self.mlp.down_proj.weight.zero_()

    def at(self, place: int, vector: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
        """Return the vector of one token of each cell, (…, D).

        Args:
            place: number of the token in its cell.
            vector: (…, D), the backbone's vector of the token.
            earlier: (…, place, D), embeddings of the cell's tokens before it.
        """
        x = vector if place == 0 else vector + self.earlier[place - 1](earlier.flatten(-2))
        return self.last(x + self.mlp(self.norm(x)))

    def forward(self, vectors: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return the vectors of all tokens, (…, 4, D), from two tensors of that shape."""
        places = [self.at(place, vectors[..., place, :], embedded[..., :place, :]) for place in range(TOKENS)]
        return torch.stack(places, dim=-2)


class Autoregressive(nn.Module):
    """A denoiser's backbone, embedding and head as an autoregressive model."""

    def __init__(self, denoiser: Denoiser, generator: torch.Generator) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.cell_head = CellHead(denoiser.config)
        self.cell_head.init_weights(generator)

    def forward(self, tokens: torch.Tensor, prompt: PromptBatch) -> torch.Tensor:
        """Return a vector for every token, from those before it: (B, h, w) int64 → (B, S, 4, D).

        The head turns it into the token's logits. With k·B prompts the grids are used k times in turn.
        """
        cells = self.denoiser.config.positions(*tokens.shape[1:])
        times = len(prompt) // len(tokens)
        image = self.denoiser.embed_image(tokens).repeat(times, 1, 1)
        visible = seen_before(prompt)
        hidden = run_backbone(self.denoiser, image, prompt, cells, visible=visible, shift=1)
        embedded = self.denoiser.gen_embedding(to_cells(tokens)).repeat(times, 1, 1, 1)
        return self.cell_head(self.of_cells(hidden), embedded)

    def of_cells(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the four vectors of each cell: (B, S, D) → (B, S, 4, D)."""
        S = hidden.shape[1]
        # A row of cells; what is beside each other does not matter to the expansion.
        return to_cells(self.denoiser.expand(hidden, 1, S).unflatten(1, (CELL, CELL * S)))


def seen_before(prompt: PromptBatch) -> torch.Tensor:
    """Return which positions each position sees, (B, 1, L, L) bool: those up to itself, and the whole prompt."""
    index = torch.arange(prompt.ids.shape[1], device=prompt.ids.device)
    causal = index <= index[:, None]
    return (causal | (index < prompt.slot_start[:, None, None]))[:, None]


@dataclass
class LayerCache:
    """Keys and values of a layer's positions so far.

    Attributes:
        most: positions that there will be.
        length: positions that are there.
        key: (B, heads, most, d), or None before the first pass.
        value: likewise.
    """

    most: int
    length: int = 0
    key: torch.Tensor | None = None
    value: torch.Tensor | None = None

    def join(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values of further positions, and return all of them."""
        if self.key is None or self.value is None:
            shape = (*key.shape[:2], self.most, key.shape[3])
            self.key, self.value = key.new_empty(shape), value.new_empty(shape)
        start, self.length = self.length, self.length + key.shape[2]
        self.key[:, :, start : self.length] = key
        self.value[:, :, start : self.length] = value
        return self.key[:, :, : self.length], self.value[:, :, : self.length]


@dataclass
class Cache:
    """The caches of all layers, in the form in which the backbone takes them."""

    layers: list[LayerCache] = field(default_factory=list)


class CachedReader:
    """Reads a prompt and then cell after cell; each position is computed once.

    Args:
        model: the model.
        prompt: prompts of one length.
        cells: rows and columns of cells.
    """

    def __init__(self, model: Autoregressive, prompt: PromptBatch, cells: tuple[int, int]) -> None:
        if prompt.common_start is None:
            raise SmaltiError("prompts must have one length for the cache")
        self._denoiser, self._prompt, self._start = model.denoiser, prompt, prompt.common_start
        self._text = embed_text(self._denoiser, prompt.ids)[:, : self._start]
        length = self._start + cells[0] * cells[1]
        sequence = self._text.new_empty(1, 1, 1).expand(len(prompt), length, 1)
        self._tables = self._denoiser.rotary(sequence, prompt.slot_start, self._start, *cells)
        self._cache = Cache([LayerCache(length) for _ in self._denoiser.layers])

    def first(self) -> torch.Tensor:
        """Read the prompt, and return the vector that predicts the first cell, (B, D)."""
        return self._run(self._text, 0)

    def after(self, cell: int, tokens: torch.Tensor) -> torch.Tensor:
        """Read a cell's tokens, (B, 4) int64, and return the vector that predicts the next cell, (B, D)."""
        grid = tokens.unflatten(1, (CELL, CELL))
        image = self._denoiser.embed_image(grid).repeat(len(self._prompt) // len(tokens), 1, 1)
        return self._run(image, self._start + cell)

    def _run(self, x: torch.Tensor, start: int) -> torch.Tensor:
        tables = self._tables.part(start, x.shape[1])
        x = self._denoiser.run_layers(x, tables, memory=self._cache)
        return self._denoiser.norm(x[:, -1])


class PlainReader:
    """Reads like `CachedReader`, but computes the whole sequence for every cell; tests compare the two."""

    def __init__(self, model: Autoregressive, prompt: PromptBatch, cells: tuple[int, int]) -> None:
        self._denoiser, self._prompt, self._cells = model.denoiser, prompt, cells
        self._tokens: torch.Tensor | None = None

    def first(self) -> torch.Tensor:
        S = self._cells[0] * self._cells[1]
        return self._run(self._prompt.ids.new_zeros(len(self._prompt), S, TOKENS), 0)

    def after(self, cell: int, tokens: torch.Tensor) -> torch.Tensor:
        if self._tokens is None:
            self._tokens = tokens.new_zeros(len(tokens), self._cells[0] * self._cells[1], TOKENS)
        self._tokens[:, cell] = tokens
        return self._run(self._tokens.repeat(len(self._prompt) // len(tokens), 1, 1), cell + 1)

    def _run(self, tokens: torch.Tensor, cell: int) -> torch.Tensor:
        image = self._denoiser.embed_image(from_cells(tokens, *self._cells))
        visible = seen_before(self._prompt)
        return run_backbone(self._denoiser, image, self._prompt, self._cells, visible=visible, shift=1)[
            :, cell
        ]


@torch.no_grad()
def generate(
    model: Autoregressive,
    prompt: PromptBatch,
    grid: tuple[int, int],
    settings: AutoregressiveSettings,
    generators: list[torch.Generator],
    *,
    reader: type[CachedReader] | type[PlainReader] = CachedReader,
) -> torch.Tensor:
    """Draw grids of tokens, (B, h, w) int64, for B prompts of one length.

    Each image takes its random numbers from its own generator.
    """
    denoiser = model.denoiser
    rows, columns = denoiser.config.positions(*grid)
    guided = settings.guidance_scale > 0
    reading = reader(
        model, PromptBatch.cat(prompt, prompt.unconditional()) if guided else prompt, (rows, columns)
    )
    uniform = torch.stack([torch.rand(rows * columns * TOKENS, generator=one) for one in generators])
    uniform = uniform.unflatten(1, (-1, TOKENS)).to(prompt.ids.device)
    tokens = prompt.ids.new_zeros(len(prompt), rows * columns, TOKENS)
    hidden = reading.first()
    for cell in range(rows * columns):
        if cell:
            hidden = reading.after(cell - 1, tokens[:, cell - 1])
        vectors = model.of_cells(hidden[:, None])[:, 0]
        embedded = vectors.new_zeros(len(vectors), 0, vectors.shape[-1])
        for place in range(TOKENS):
            found = model.cell_head.at(place, vectors[:, place], embedded)
            parts = found.split(len(prompt))
            operator = partial(
                sample_tokens,
                uniform=uniform[:, cell, place],
                hidden_uncond=parts[1] if guided else None,
                guidance_scale=settings.guidance_scale,
                temperature=settings.temperature,
                top_p=settings.top_p if settings.top_p < 1 else None,
                top_k=settings.top_k or None,
            )
            chosen = denoiser.gen_predictor.run(operator, parts[0]).candidate
            tokens[:, cell, place] = chosen
            more = denoiser.gen_embedding(chosen).repeat(len(parts), 1)
            embedded = torch.cat([embedded, more[:, None]], dim=1)
    return from_cells(tokens, rows, columns)
