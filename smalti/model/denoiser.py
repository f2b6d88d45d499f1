"""The denoiser: a grid of image tokens and a prompt in, a hidden vector a token out (docs/format.md, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from smalti.errors import SmaltiError
from smalti.model.backbone import Layer, RMSNorm
from smalti.model.cells import CellMemory, tokens_of
from smalti.model.compression import DownsampleStage, UpsampleStage
from smalti.model.config import EXTRA_CODES, DenoiserConfig
from smalti.model.convolution import PromptConvolution
from smalti.model.head import Head
from smalti.model.light import LightLayer, LightMemory
from smalti.model.prompt import PromptBatch
from smalti.model.reuse import LayerMemory, PromptMemory
from smalti.model.rotary import RotaryTables, axial_positions, axial_tables, raster_tables

_CACHED_TABLES = 8


class Denoiser(nn.Module):
    """Bidirectional transformer over prompt and image tokens.

    Its tensors have the reference model's names without the prefix `encoder.`. It returns hidden vectors; logits are
    `hidden @ denoiser.head.T`, which only `smalti.ops` computes, in chunks, through `gen_predictor.run`.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.hidden_size
        cross = config.conditioning == "cross_attention"
        self.embed_tokens = nn.Embedding(config.vocab_size, dim)
        self.gen_embedding = nn.Embedding(config.codebook_size + EXTRA_CODES, dim)
        if config.prompt_convolution:
            self.prompt_convolution = PromptConvolution(dim, config.prompt_convolution)
        if config.downsample:
            self.downsample_gen = DownsampleStage(dim)
            self.upsample_gen = UpsampleStage(dim)
        if cross:
            self.text_layers = nn.ModuleList(Layer(config) for _ in range(config.num_text_layers))
            self.text_norm = RMSNorm(dim, config.rms_norm_eps)
        self.layers = nn.ModuleList(
            Layer(config, cross_attention=cross) for _ in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(dim, config.rms_norm_eps)
        self.gen_predictor = Head(dim, config.codebook_size)
        self.light: LightLayer | None = None
        """Layer in place of the backbone where a `LightMemory` is filled, if one is loaded."""
        self._tables: dict[tuple, RotaryTables] = {}

    @property
    def head(self) -> torch.Tensor:
        """Matrix (V, D) that multiplies a hidden vector into the logits of the V codes, to look at.

        Products go through `gen_predictor.run`, because the matrix may be a shard here or lack an adapter.
        """
        return self.gen_predictor.weight

    @property
    def device(self) -> torch.device:
        """The device that grids and prompts must be on; the CPU for a denoiser without weights, on "meta"."""
        device = self.head.device
        return torch.device("cpu") if device.type == "meta" else device

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Set every weight for training from scratch, as `initial_weights` has it."""
        parameters = dict(self.named_parameters())
        for name, values in self.initial_weights(generator):
            parameters[name].copy_(values)

    def initial_weights(self, generator: torch.Generator | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every weight for training from scratch, one at a time, on the CPU; the model may be on any device.

        Weights are normal with standard deviation 0.02, and norms start at 1. As in GPT-2, projections into the
        residual stream are scaled by 1/√(2 · layers), so that its variance does not grow with depth.
        """
        residual = (2 * self.config.num_hidden_layers) ** -0.5
        for name, weight in self.named_parameters():
            values = torch.empty(weight.shape, device="cpu")
            if weight.ndim == 1:
                values.fill_(1.0)
            else:
                scale = residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                values.normal_(0.0, 0.02 * scale, generator=generator)
            yield name, values

    def recompute(self, every: int) -> None:
        """Let every k-th layer keep its input alone for the backward pass, and compute the rest again there.

        Args:
            every: k; 1 means every layer, 0 none.
        """
        layers = [*self.layers, *(self.text_layers if self.config.conditioning == "cross_attention" else ())]
        for number, layer in enumerate(layers):
            layer.recomputed = every > 0 and number % every == 0

    def forward(
        self,
        tokens: torch.Tensor,
        prompt: PromptBatch,
        memory: PromptMemory | CellMemory | LightMemory | None = None,
    ) -> torch.Tensor:
        """Predict every token from all the others and the prompt.

        Args:
            tokens: (B, h, w) int64, `config.mask_code` where masked.
            prompt: B prompts with `config.slots(h, w)` reserved slots each, on the same device. With k·B prompts, as in
                guidance, the grids are embedded once and used k times in turn.
            memory: what earlier passes left, for prompts of one length. An empty memory is filled by this pass. A
                filled one replaces the computation of the prompt's positions. A cell memory also replaces that of all
                cells but the chosen ones (`smalti.model.cells`), a light memory that of the backbone.

        Returns:
            (prompts, h·w, D) hidden vectors in raster order.

        Raises:
            SmaltiError: the grid cannot be divided into 2×2 blocks, or prompt and grid do not fit each other.
        """
        B, h, w = tokens.shape
        rows, columns = self.config.positions(h, w)
        slots = self.config.slots(h, w)
        if B == 0 or len(prompt) % B or not len(prompt):
            raise SmaltiError(
                f"the prompt batch must hold {B} prompts, one a grid, or a multiple, not {len(prompt)}"
            )
        if prompt.slots != slots:
            raise SmaltiError(f"prompts must reserve {slots} slots for a grid of {h}×{w}, not {prompt.slots}")
        kept = memory if isinstance(memory, CellMemory) else None
        if kept is not None and kept.layers:
            return self._over_cells(tokens, prompt, kept)
        image = self.embed_image(tokens)
        if len(prompt) > B:
            image = image.repeat(len(prompt) // B, 1, 1)
        last = memory if isinstance(memory, LightMemory) else None
        if last is not None and last.hidden is not None and self.light is not None:
            tables = self.rotary(image, torch.zeros_like(prompt.slot_start), 0, rows, columns)
            hidden = self.light(last.hidden, image, tables)
        elif self.config.conditioning == "sequence":
            own = None if isinstance(memory, LightMemory) else memory
            hidden = self._in_sequence(image, prompt, rows, columns, own)
        else:
            hidden = self._across(image, prompt, rows, columns, kept)
        if last is not None:
            last.hidden = hidden
        hidden = self.expand(hidden, rows, columns)
        if kept is not None:
            kept.output = hidden
        return hidden

    def embed_image(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the image's vectors for the backbone: (B, h, w) int64 → (B, S, D)."""
        image = self.gen_embedding(tokens)
        image = self.downsample_gen.downsample(image) if self.config.downsample else image.flatten(1, 2)
        # Autocast changes matrix products only: the residual stream keeps the weights' dtype.
        return image.to(self.norm.weight.dtype)

    def expand(self, hidden: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """Return one vector a token, in raster order, of the backbone's: (B, rows · columns, D) → (B, h·w, D)."""
        return self.upsample_gen.upsample(hidden, rows, columns) if self.config.downsample else hidden

    def _in_sequence(
        self,
        image: torch.Tensor,
        prompt: PromptBatch,
        rows: int,
        columns: int,
        memory: PromptMemory | CellMemory | None,
    ) -> torch.Tensor:
        """Run the backbone over the prompt with the image in its slots: (B, S, D) → (B, S, D)."""
        S = image.shape[1]
        start = prompt.common_start
        if memory is not None and (start is None or prompt.padded):
            raise SmaltiError("a prompt memory needs prompts of one length")
        if isinstance(memory, CellMemory):
            memory.begin(len(self.layers))
        elif memory is not None and start is not None:
            if memory.layers:
                return self._beside(image, prompt, start, rows, columns, memory)
            memory.layers += [LayerMemory(start, S) for _ in range(len(self.layers))]
        if start is not None:
            before, after = self._embed_around(prompt.ids, start, start + S)
            x = torch.cat([before, image, after], dim=1)
            del before, after
        else:
            index = prompt.slot_start[:, None] + torch.arange(S, device=image.device)
            index = index[..., None].expand_as(image)
            x = self._embed(prompt.ids).scatter(1, index, image)
        visible = self._visible(prompt)
        tables = self.rotary(x, prompt.slot_start, start, rows, columns)
        x = self.run_layers(x, tables, visible=visible, memory=memory)
        x = x[:, start : start + S] if start is not None else x.gather(1, index)
        return self.norm(x)

    def _beside(
        self,
        image: torch.Tensor,
        prompt: PromptBatch,
        start: int,
        rows: int,
        columns: int,
        memory: PromptMemory,
    ) -> torch.Tensor:
        """Run the backbone over the image alone, with a remembered prompt: (B, S, D) → (B, S, D)."""
        # Positions are those of the image in the whole sequence; tables are cached by its length.
        sequence = image.new_empty(1, 1, 1).expand(*prompt.ids.shape, 1)
        tables = self.rotary(sequence, prompt.slot_start, start, rows, columns)
        tables = tables.part(start, image.shape[1])
        return self.norm(self.run_layers(image, tables, memory=memory))

    def _over_cells(self, tokens: torch.Tensor, prompt: PromptBatch, memory: CellMemory) -> torch.Tensor:
        """Compute the memory's chosen cells; return all outputs of its chosen prompts, (p, h·w, D).

        Args:
            tokens: (p / k, h, w) int64, the grids of the chosen prompts, each used k times in turn.
            prompt: the p chosen prompts.
        """
        (B, h, w), cells = tokens.shape, memory.cells
        rows, columns = self.config.positions(h, w)
        in_sequence = self.config.conditioning == "sequence"
        start = prompt.common_start if in_sequence else 0
        assert start is not None and memory.output is not None  # an earlier pass filled the memory
        index = tokens_of(cells, columns, w, self.config.cell)
        # The cells beside each other are a grid of their own: blocks of 2×2 tokens do not overlap.
        part = tokens.flatten(1).gather(1, index[:B].flatten(1)).unflatten(1, index.shape[1:])
        image = self.embed_image(part).repeat(len(prompt) // B, 1, 1)
        length = prompt.ids.shape[1] if in_sequence else rows * columns
        sequence = image.new_empty(1, 1, 1).expand(len(prompt), length, 1)
        first = prompt.slot_start if in_sequence else torch.zeros_like(prompt.slot_start)
        memory.positions = cells + start
        tables = self.rotary(sequence, first, start, rows, columns).at(memory.positions)
        text = None if memory.text is None else memory.text[memory.rows]
        hidden = self.norm(self.run_layers(image, tables, text=text, memory=memory))
        memory.output[memory.rows[:, None], index.flatten(1)] = self.expand(hidden, 1, cells.shape[1])
        return memory.output if len(memory.rows) == len(memory.output) else memory.output[memory.rows]

    def _across(
        self, image: torch.Tensor, prompt: PromptBatch, rows: int, columns: int, memory: CellMemory | None
    ) -> torch.Tensor:
        """Run the backbone over the image, attending to the encoded prompt: (B, S, D) → (B, S, D)."""
        visible = self._visible(prompt)
        text = self._embed(prompt.ids)
        tables = self._cached_raster(text)
        for layer in self.text_layers:
            text = layer(text, tables, visible=visible)
        text = self.text_norm(text)
        if memory is not None:
            if visible is not None:
                raise SmaltiError("a prompt memory needs prompts of one length")
            memory.begin(len(self.layers))
            memory.text = text
        tables = self.rotary(image, torch.zeros_like(prompt.slot_start), 0, rows, columns)
        return self.norm(self.run_layers(image, tables, text=text, text_visible=visible, memory=memory))

    def run_layers(
        self,
        x: torch.Tensor,
        tables: RotaryTables,
        *,
        visible: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_visible: torch.Tensor | None = None,
        memory: PromptMemory | CellMemory | None = None,
    ) -> torch.Tensor:
        """Run all layers in turn: (B, L, D) → (B, L, D); arguments as in `Layer`, `memory` for all layers."""
        for number, layer in enumerate(self.layers):
            x = layer(
                x,
                tables,
                visible=visible,
                text=text,
                text_visible=text_visible,
                memory=memory.layers[number] if memory is not None else None,
            )
        return x

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed the ids of a prompt: (B, L) → (B, L, D)."""
        x = self.embed_tokens(ids)
        return self.prompt_convolution(x) if self.config.prompt_convolution else x

    def _embed_around(self, ids: torch.Tensor, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the parts of `_embed` before `start` and from `end` on."""
        if self.config.prompt_convolution:
            text = self._embed(ids)
            return text[:, :start], text[:, end:]
        # One call: processes that hold shards of the table gather it as often as each other.
        text = self.embed_tokens(torch.cat([ids[:, :start], ids[:, end:]], dim=1))
        return text[:, :start], text[:, start:]

    def _visible(self, prompt: PromptBatch) -> torch.Tensor | None:
        """Return (B, 1, 1, L) bool, False on padding; None if nothing is padded, which is faster."""
        if not prompt.padded:
            return None
        index = torch.arange(prompt.ids.shape[1], device=prompt.ids.device)
        return (index < prompt.lengths[:, None])[:, None, None]

    def rotary(
        self, x: torch.Tensor, slot_start: torch.Tensor, start: int | None, rows: int, columns: int
    ) -> RotaryTables:
        """Return tables for a sequence x, (B, L, D), that holds a rows × columns map from `slot_start` on."""
        if self.config.image_positions == "raster":
            return self._cached_raster(x)
        rope, head_dim, dtype = self.config.rope, self.config.head_dim, _compute_dtype(x)
        if start is None:
            positions = axial_positions(x.shape[1], slot_start, rows, columns)
            return axial_tables(rope, head_dim, positions, dtype, (rows, columns))
        # One start for all: one table that broadcasts over the batch, kept for the next step.

        def make() -> RotaryTables:
            first = torch.tensor([start], device=x.device)
            positions = axial_positions(x.shape[1], first, rows, columns)
            return axial_tables(rope, head_dim, positions, dtype, (rows, columns))

        return self._cached(("axial", x.shape[1], start, rows, columns, x.device, dtype), make)

    def _cached_raster(self, x: torch.Tensor) -> RotaryTables:
        dtype = _compute_dtype(x)
        rope, head_dim, length = self.config.rope, self.config.head_dim, x.shape[1]
        return self._cached(
            ("raster", length, x.device, dtype),
            lambda: raster_tables(rope, head_dim, length, x.device, dtype),
        )

    def _cached(self, key: tuple, make: Callable[[], RotaryTables]) -> RotaryTables:
        if key not in self._tables:
            if len(self._tables) >= _CACHED_TABLES:
                self._tables.pop(next(iter(self._tables)))
            # Tables made under inference mode could not be used in training afterwards.
            with torch.inference_mode(False), torch.no_grad():
                self._tables[key] = make()
        return self._tables[key]


def _compute_dtype(x: torch.Tensor) -> torch.dtype:
    """Return the dtype of projections of x: autocast's where it is on."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
