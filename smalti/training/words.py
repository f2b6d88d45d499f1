"""Training of a word: its vectors in the text embedding, from a few images that show it, with the model frozen.

The loss is the cross-entropy of masked tokens under captions that hold the word. Most tokens are masked, because
neighbours explain a token where few are, and the word then learns little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from smalti.common.checks import check_real, check_seed, check_whole, quoted
from smalti.common.devices import autocast_off
from smalti.common.randomness import stream
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.model.learned import MOST_VECTORS, LearnedWord, WordEmbedding, add_words, check_name
from smalti.model.prompt import PromptBatch
from smalti.ops.gce import grouped_cross_entropy

RATIOS = (0.75, 0.95)
"""Smallest and largest mask ratio of a step. Above, the place of the thing is unknown, which no word can tell."""

_LARGEST_RATE = 1000

Report = Callable[[int, float], None]
"""A function that is called with the steps that are done and the mean loss of the last one, in nats a token."""


@dataclass(frozen=True)
class WordTraining:
    """How a word is trained.

    Attributes:
        steps: number of steps.
        batch_size: masked images a step; images take turns.
        learning_rate: step size of Adam as a part of the start's root mean square, at most 1000. It falls to 0 by a
            cosine.
        vectors: number of vectors, which take the places of so many text ids.
        initial: text whose ids' mean every vector starts from; None takes the known word that fits the images best.
        seed: seed of the masks.

    Raises:
        SmaltiError: a value that is out of its range, by name.
    """

    steps: int = 150
    batch_size: int = 4
    learning_rate: float = 0.2
    vectors: int = 1
    initial: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("steps", self.steps)
        check_whole("batch_size", self.batch_size)
        check_real("learning_rate", self.learning_rate, 0, _LARGEST_RATE, above=True)
        check_whole("vectors", self.vectors, 1, MOST_VECTORS)
        check_seed(self.seed)
        if self.initial is not None and not (isinstance(self.initial, str) and self.initial.strip()):
            raise SmaltiError(
                f"initial must be text that is not blank, not {quoted(self.initial)}", argument="initial"
            )


def train_word(
    components: Components,
    tokens: torch.Tensor,
    captions: Sequence[str],
    name: str,
    training: WordTraining | None = None,
    *,
    report: Report | None = None,
) -> LearnedWord:
    """Train a word on images that show it. Every weight of the model stays as it is.

    Args:
        components: the model.
        tokens: (n, h, w) int64, tokens of the images; 3 to 5 images are usual.
        captions: a caption of each image that holds the word's name, such as "a red <thing>".
        name: name of the word, such as "<thing>".
        training: how it is trained; None takes the defaults of `WordTraining`.
        report: called after every step.

    Raises:
        SmaltiError: an argument that is wrong, by name, or a loss that is not finite.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> tokens = pipe(["a red star", "a blue star"], seed=[0, 1], num_inference_steps=8).tokens
        >>> captions = ["a red <thing>", "a blue <thing>"]
        >>> train_word(pipe.components, tokens, captions, "<thing>", WordTraining(2, initial="a")).vectors.shape
        torch.Size([1, 256])
    """
    training = training or WordTraining()
    check_captions(captions, check_name(name))
    if len(captions) != len(tokens):
        raise SmaltiError(
            f"captions must be one an image, {len(tokens)}, not {len(captions)}", argument="captions"
        )
    initial = training.initial
    if initial is None:
        initial = nearest_word(components, tokens, captions, name, components.words)
    start, unit = _start(components, initial, training)
    with _trainable(components, LearnedWord(name, start)) as (parts, rows):
        prompts = _prompts(parts, tokens, captions)
        optimizer = torch.optim.Adam([rows], lr=training.learning_rate * unit, betas=(0.9, 0.99))
        for step in range(training.steps):
            for group in optimizer.param_groups:
                part = step / training.steps
                group["lr"] = training.learning_rate * unit * (1 + math.cos(math.pi * part)) / 2
            optimizer.zero_grad(set_to_none=True)
            loss = _loss(parts, prompts, tokens, training, step)
            _check_finite(loss)
            loss.backward()
            optimizer.step()
            if report is not None:
                report(step + 1, float(loss.detach()))
        learned = rows.detach()[-training.vectors :].float().cpu().clone()
        _check_finite(learned)
    return LearnedWord(name, learned)


def _check_finite(values: torch.Tensor) -> None:
    """Raise SmaltiError unless a loss or a word's vectors are finite."""
    if not bool(values.isfinite().all()):
        raise SmaltiError("the loss is not finite: learning_rate is too large, or the weights are unfit")


def check_captions(captions: Any, name: str) -> None:
    """Raise SmaltiError unless captions are texts that hold the name of a word."""
    if isinstance(captions, str) or not isinstance(captions, list | tuple) or not captions:
        raise SmaltiError(
            f"captions must be a list of at least one text, not {quoted(captions)}", argument="captions"
        )
    for caption in captions:
        if not isinstance(caption, str) or name not in caption:
            raise SmaltiError(f"captions must hold {name}, not {quoted(caption)}", argument="captions")


def nearest_word(
    components: Components,
    tokens: torch.Tensor,
    captions: Sequence[str],
    name: str,
    words: Collection[str],
    *,
    seed: int = 0,
) -> str:
    """Return the known word whose vector, in the place of a new word, makes the images likeliest.

    From there a word learns in few steps. The loss has many minima, and from elsewhere it often ends in one that
    describes no thing. All words share the masks; the better eighth of them sees more.

    Args:
        components: the model.
        tokens, captions, name: as for `train_word`.
        words: known words to choose from, such as `components.words`.
        seed: seed of the masks.

    Raises:
        SmaltiError: there are no words.
    """
    left = sorted(words)
    if not left:
        raise SmaltiError(
            "initial must be named for a model whose words are not known, such as a word for a similar thing",
            argument="initial",
        )
    training = WordTraining(seed=seed)
    starts = {word: _vector(components, word) for word in left}
    losses = dict.fromkeys(left, 0.0)
    with _trainable(components, LearnedWord(name, starts[left[0]])) as (parts, rows), torch.no_grad():
        prompts = _prompts(parts, tokens, captions)
        for step in (0, 1, 2):
            for word in left:
                rows[-1] = starts[word][0].to(rows.device)
                losses[word] += float(_loss(parts, prompts, tokens, training, step))
            left = sorted(left, key=lambda word: losses[word])[: max(4, len(left) // 8)]
    return min(left, key=lambda word: losses[word])


def _start(components: Components, initial: str, training: WordTraining) -> tuple[torch.Tensor, float]:
    """Return the vectors to start from, (n, D) float32, and their root mean square."""
    mean = _vector(components, initial)
    # Equal vectors would stay equal: they have the same gradients but for their places.
    noise = torch.randn(training.vectors, mean.shape[1], generator=stream(training.seed, "word"))
    unit = float(mean.square().mean().sqrt())
    return mean + (0.1 * unit * noise if training.vectors > 1 else 0), unit


def _vector(components: Components, text: str) -> torch.Tensor:
    """Return the mean of a text's vectors as it stands behind other words, without the blank: (1, D) float32."""
    tokenizer = components.text_tokenizer
    before, ids = tokenizer.encode("a "), tokenizer.encode(f"a {text}")
    ids = ids[len(before) :] if ids[: len(before)] == before else ids[len(tokenizer.encode("a")) :]
    with torch.no_grad():
        found = components.denoiser.embed_tokens(torch.tensor(ids, device=components.device))
    return found.float().cpu().mean(0, keepdim=True)


def _prompts(components: Components, tokens: torch.Tensor, captions: Sequence[str]) -> PromptBatch:
    """Return the captions as prompts for images of these tokens."""
    height, width = (components.image_tokenizer.config.downscale * side for side in tokens.shape[1:])
    return components.prompts(list(captions), height, width, name="captions")


@contextmanager
def _trainable(components: Components, word: LearnedWord) -> Iterator[tuple[Components, torch.nn.Parameter]]:
    """Yield components whose denoiser has a word's rows as its only parameters with gradients; undo it at the end."""
    denoiser, before = components.denoiser, components.denoiser.embed_tokens
    wanted = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    try:
        tokenizer = add_words(denoiser, components.text_tokenizer, [word])
        denoiser.requires_grad_(False)
        embedding = denoiser.embed_tokens
        assert isinstance(embedding, WordEmbedding)
        embedding.rows.requires_grad_(True)
        yield replace(components, text_tokenizer=tokenizer), embedding.rows
    finally:
        denoiser.embed_tokens = before
        for parameter in wanted:
            parameter.requires_grad_(True)


def _loss(
    components: Components, prompts: PromptBatch, tokens: torch.Tensor, training: WordTraining, step: int
) -> torch.Tensor:
    """Return the mean cross-entropy of a step's masked tokens, in nats."""
    denoiser, size = components.denoiser, training.batch_size
    chosen = torch.arange(step * size, (step + 1) * size) % len(tokens)
    draws = stream(training.seed, "word masks", step)
    ratios = RATIOS[0] + (RATIOS[1] - RATIOS[0]) * torch.rand(size, 1, generator=draws)
    noise = torch.rand(size, tokens[0].numel(), generator=draws)
    masked = (noise.argsort(1).argsort(1) < ratios * noise.shape[1]).view(size, *tokens.shape[1:])
    targets, masked = tokens[chosen].to(components.device), masked.to(components.device)
    grids = targets.masked_fill(masked, denoiser.config.mask_code)
    with autocast_off(components.device):
        hidden = denoiser(grids, prompts.select(chosen))
        operator = partial(grouped_cross_entropy, targets=targets[masked])
        return denoiser.gen_predictor.run(operator, hidden[masked.flatten(1)]).loss
