"""Features of an image for probes: what the denoiser's layers hold while they read it, without a mask.

This is VPD (arXiv 2303.02153) for masked models. One pass over the visible image yields the hidden vectors after some
layers, and how much each position attends to each word of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from smalti.common.checks import quoted
from smalti.common.devices import autocast_off
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.spans import find_words, ids_inside, prompt_ids
from smalti.reading.attention import check_attention, image_rows, running_layers, watched

# Text whose ids are all replaced where there is no prompt: as many as a caption has, as in training.
_ABSENT = "an image that no prompt describes"


@dataclass(frozen=True, eq=False)
class Features:
    """What the layers hold of an image of h × w tokens, whose backbone has rows × columns positions.

    The backbone has one position a token, or one for 2×2 tokens where the model compresses them.

    Attributes:
        layers: numbers of the layers, from 1 to their number.
        hidden: (layers, rows, columns, D) float32 on the CPU, the residual stream after each of these layers.
        output: (h, w, D) float32 on the CPU, the vectors that the head turns into logits, one a token.
        attention: (layers, rows, columns, words) float32 on the CPU, attention of each position to each word of the
            prompt, the mean over heads.
        words: words of the prompt in their order; none without a prompt.
    """

    layers: tuple[int, ...]
    hidden: torch.Tensor
    output: torch.Tensor
    attention: torch.Tensor
    words: tuple[str, ...]

    def stacked(self, *, attention: bool = False) -> torch.Tensor:
        """Return all features of each token as one vector: (h, w, C) float32.

        C is (layers + 1) · D: the hidden vectors of the layers in their order, then the output. Tokens of one position
        share its hidden vectors.

        Args:
            attention: whether layers · words attentions come after them.
        """
        height, width, _ = self.output.shape
        parts = [self._spread(self.hidden, height, width), self.output]
        if attention:
            parts.append(self._spread(self.attention, height, width))
        return torch.cat(parts, dim=-1)

    def maps(self) -> torch.Tensor:
        """Return the attention of each token to each word, the mean over the layers: (h, w, words) float32."""
        height, width, _ = self.output.shape
        return self._spread(self.attention.mean(0, keepdim=True), height, width)

    @staticmethod
    def _spread(values: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Return values of positions as values of tokens: (layers, rows, columns, n) → (h, w, layers · n)."""
        _, rows, columns, _ = values.shape
        flat = values.permute(1, 2, 0, 3).flatten(2)
        return flat.repeat_interleave(height // rows, 0).repeat_interleave(width // columns, 1)


@torch.inference_mode()
def features(
    components: Components,
    tokens: torch.Tensor,
    prompt: str | None,
    *,
    layers: Sequence[int] | None = None,
) -> Features:
    """Return the features of an image from one pass of the denoiser over all its tokens.

    Args:
        components: the model, whose layers are not compiled.
        tokens: (h, w) int64, the image without masks.
        prompt: what the image shows, or what to look for in it; None reads the image without a prompt.
        layers: rising numbers of layers, from 1; None takes those after each quarter of the depth.

    Raises:
        SmaltiError: an argument that is wrong, by name, or layers that are compiled.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> found = features(pipe.components, pipe("a red circle", seed=0).tokens[0], "a red circle")
        >>> found.layers, found.hidden.shape, found.output.shape, found.words
        ((2, 4, 6, 8), torch.Size([4, 8, 8, 256]), torch.Size([16, 16, 256]), ('a', 'red', 'circle'))
    """
    denoiser = components.denoiser
    check_attention(denoiser, "features")
    chosen = check_layers(layers, denoiser.config.num_hidden_layers)
    height, width = tokens.shape
    rows, columns = denoiser.config.positions(height, width)
    side = components.image_tokenizer.config.downscale
    size = (height * side, width * side)
    batch = components.prompts([_ABSENT if prompt is None else prompt], *size)
    batch = batch.unconditional() if prompt is None else batch
    words, places = _words(components, prompt, size)
    image = image_rows(denoiser, batch, rows * columns)
    wanted = torch.tensor([index for one in places for index in one], dtype=torch.int64)
    with (
        watched(denoiser, image, wanted.to(denoiser.device)) as seen,
        _outputs(denoiser, image) as states,
        autocast_off(denoiser.device),
    ):
        output = denoiser(tokens[None].to(denoiser.device), batch)
    hidden = torch.stack([states[layer - 1] for layer in chosen])
    looked = torch.stack([seen[layer - 1] for layer in chosen]).cpu()
    by_word = [part.sum(-1) for part in looked.split([len(one) for one in places], dim=-1)]
    empty = looked.new_zeros(*looked.shape[:2], 0)
    attention = torch.stack(by_word, dim=-1) if by_word else empty
    return Features(
        layers=chosen,
        hidden=hidden.unflatten(1, (rows, columns)),
        output=output[0].float().cpu().unflatten(0, (height, width)),
        attention=attention.unflatten(1, (rows, columns)),
        words=words,
    )


def check_layers(layers: Any, count: int) -> tuple[int, ...]:
    """Return the numbers of layers of a denoiser that has `count`; None is the last of each quarter.

    Raises:
        SmaltiError: they are not rising whole numbers from 1 to `count`.

    Example:
        >>> check_layers(None, 34)
        (8, 17, 25, 34)
    """
    if layers is None:
        return tuple(sorted({max(1, quarter * count // 4) for quarter in (1, 2, 3, 4)}))
    listed = list(layers) if isinstance(layers, list | tuple | range) else []
    whole = all(type(layer) is int and 1 <= layer <= count for layer in listed)
    if not listed or not whole or listed != sorted(set(listed)):
        raise SmaltiError(
            f"layers must be rising whole numbers from 1 to {count}, not {quoted(layers)}", argument="layers"
        )
    return tuple(listed)


def _words(
    components: Components, prompt: str | None, size: tuple[int, int]
) -> tuple[tuple[str, ...], list[list[int]]]:
    """Return the words of a prompt and, for each, the indices of its ids in the whole prompt."""
    if prompt is None:
        return (), []
    ids = prompt_ids(
        prompt,
        components.denoiser.config.prompt,
        components.text_tokenizer,
        height=size[0],
        width=size[1],
    )
    places = find_words(prompt)
    words = tuple(prompt[start:end] for start, end in places)
    return words, [[ids[number][0] for number in ids_inside(ids, prompt, place)] for place in places]


@contextmanager
def _outputs(denoiser: Denoiser, image: slice) -> Iterator[list[torch.Tensor]]:
    """Collect what each layer that runs in the block returns for the image: (positions, D) float32 on the CPU."""
    states: list[torch.Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        states.append(output[0, image].float().cpu())

    handles = [layer.register_forward_hook(keep) for layer in running_layers(denoiser)]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
