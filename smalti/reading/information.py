"""What the words of a prompt say about an image: information maps, and its parts for pairs of words.

This is DiffusionPID (arXiv 2406.05191) for masked models, where log p itself takes the place of denoising errors. With
C the prompt without some words, and the mean over shared masks M that hide token i,

    i(y) = E_M [log p(x_i | visible, C with y) − log p(x_i | visible, C)]

is the pointwise information of the words y about token i, in nats. For a pair of words

    R = max(0, min(i(a), i(b))),  U_a = i(a) − R,  U_b = i(b) − R,  S = i(a, b) − i(a) − i(b) + R

are its redundant, unique and synergistic parts. R is the least of both (minimum mutual information), because the
paper's R assumes a prior of words. C lacks both words, so i(a) says what a tells where b is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from smalti.common.checks import check_whole, quoted
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.model.spans import find_phrase, find_words
from smalti.reading.candidates import Report, masks_at_once
from smalti.reading.grounding import PASSES, without
from smalti.reading.likelihood import log_probabilities
from smalti.reading.masks import MOST_MASKS, reading_masks

Place = tuple[int, int]
"""Characters of a prompt: (start, end)."""


@dataclass(frozen=True, eq=False)
class WordInformation:
    """What a word says about an image, given the other words of the prompt.

    Attributes:
        word: the word, or words that are explained together.
        place: its characters in the prompt.
        values: (h, w) float32, nats, information about each token; negative where the token is likelier without it.
    """

    word: str
    place: Place
    values: torch.Tensor

    @property
    def total(self) -> float:
        """Information about the whole image, in nats."""
        return float(self.values.sum())

    @property
    def peak(self) -> tuple[int, int]:
        """Row and column of the token that the word says most about."""
        row, column = divmod(int(self.values.argmax()), self.values.shape[1])
        return row, column


@dataclass(frozen=True, eq=False)
class PairInformation:
    """The parts of what two words say about an image, given the rest of the prompt.

    Attributes:
        words: both words.
        redundant: (h, w) float32, nats a token, what each of both says alone.
        unique: for each word (h, w) float32, what it alone says.
        synergistic: (h, w) float32, what both say only together; negative where the second adds less than alone.
    """

    words: tuple[str, str]
    redundant: torch.Tensor
    unique: tuple[torch.Tensor, torch.Tensor]
    synergistic: torch.Tensor

    @property
    def overlap(self) -> float:
        """Redundant part of the information of the less informative word, from 0 to 1."""
        least = min(float((self.redundant + one).clamp_min(0).sum()) for one in self.unique)
        return float(self.redundant.sum()) / least if least > 0 else 0.0


@dataclass(frozen=True, eq=False)
class Information:
    """What the words of a prompt say about an image.

    Attributes:
        prompt: the prompt.
        words: what was asked of single words, in their order.
        pairs: what was asked of pairs.
        passes: number of grids that the denoiser has read.
    """

    prompt: str
    words: list[WordInformation]
    pairs: list[PairInformation]
    passes: int


def explain(
    components: Components,
    tokens: torch.Tensor,
    prompt: str,
    *,
    words: Sequence[str] | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    masks: int = PASSES,
    seed: int = 0,
    report: Report | None = None,
) -> Information:
    """Return what the words of a prompt say about an image's tokens.

    Args:
        components: the model.
        tokens: (h, w) int64, the image without masks.
        prompt: what the image shows.
        words: words or phrases of the prompt, explained one by one; None takes every word.
        pairs: pairs of words or phrases of the prompt, whose information is taken apart.
        masks: masks a text; all texts share them.
        seed: seed of the masks.
        report: called with the passes that are done and their number.

    Raises:
        SmaltiError: an argument that is wrong, by name.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> tokens = pipe("a red circle", seed=0).tokens[0]
        >>> found = explain(pipe.components, tokens, "a red circle", words=["circle", "a"])
        >>> found.words[0].total > found.words[1].total
        True
    """
    places = check_words(prompt, words)
    asked = check_pairs(prompt, pairs)
    check_whole("masks", masks, 1, MOST_MASKS)
    lacking: list[tuple[Place, ...]] = [(), *((place,) for place in places)]
    for first, second in asked:
        lacking += [(first,), (second,), _both(first, second)]
    known = _likelihoods(components, tokens, prompt, list(dict.fromkeys(lacking)), masks, seed, report)
    return Information(
        prompt,
        [WordInformation(prompt[place[0] : place[1]], place, known[()] - known[place,]) for place in places],
        [_parts(prompt, first, second, known) for first, second in asked],
        masks * len(known),
    )


def _likelihoods(
    components: Components,
    tokens: torch.Tensor,
    prompt: str,
    lacking: list[tuple[Place, ...]],
    masks: int,
    seed: int,
    report: Report | None,
) -> dict[tuple[Place, ...], torch.Tensor]:
    """Return log p of each token, (h, w) float32, under the prompt without each of some sets of places."""
    side = components.image_tokenizer.config.downscale
    height, width = (side * cells for cells in tokens.shape)
    shared = reading_masks(tokens.shape[0], tokens.shape[1], masks, seed=seed)
    seen, at_once = shared.sum(0).clamp_min(1), masks_at_once(components, *tokens.shape)
    full = components.prompts([prompt], height, width)
    found = {}
    for number, places in enumerate(lacking, 1):
        text = without_places(prompt, places)
        batch = components.prompts([text], height, width) if text else full.unconditional()
        values = log_probabilities(components.denoiser, batch, tokens, shared, at_once=at_once)
        found[places] = values.sum(0) / seen
        if report is not None:
            report(number * masks, len(lacking) * masks)
    return found


def _parts(
    prompt: str, first: Place, second: Place, known: dict[tuple[Place, ...], torch.Tensor]
) -> PairInformation:
    """Return the parts of a pair's information from the log-likelihoods without each word and without both."""
    neither = known[_both(first, second)]
    a, b, both = known[second,] - neither, known[first,] - neither, known[()] - neither
    redundant = torch.minimum(a, b).clamp_min(0)
    return PairInformation(
        (prompt[first[0] : first[1]], prompt[second[0] : second[1]]),
        redundant,
        (a - redundant, b - redundant),
        both - a - b + redundant,
    )


def _both(first: Place, second: Place) -> tuple[Place, ...]:
    """Return two places in their order in the prompt."""
    return tuple(sorted((first, second)))


def without_places(prompt: str, places: Sequence[Place]) -> str:
    """Return a prompt without the characters of some places; no places leave it as it is.

    Example:
        >>> without_places("a red circle and a blue star", [(2, 5), (24, 28)])
        'a circle and a blue'
    """
    for place in sorted(places, reverse=True):
        prompt = without(prompt, place)
    return prompt


def check_words(prompt: Any, words: Any) -> list[Place]:
    """Return the places of words in their prompt; None finds all of them.

    Raises:
        SmaltiError: the prompt is blank, or a word is not in it or is given twice.
    """
    if not isinstance(prompt, str) or not find_words(prompt):
        raise SmaltiError(f"prompt must be text with a word, not {quoted(prompt)}", argument="prompt")
    if words is None:
        return find_words(prompt)
    if isinstance(words, str) or not isinstance(words, list | tuple):
        raise SmaltiError(f"words must be a list of texts, not {quoted(words)}", argument="words")
    places = [_find(prompt, word, "words") for word in words]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise SmaltiError(f"words must not be given twice: {quoted(words[number])}", argument="words")
    return places


def check_pairs(prompt: str, pairs: Any) -> list[tuple[Place, Place]]:
    """Return the places of both words of each pair in their prompt.

    A pair of the same word twice means its first two places, as "red, red" in "a red circle and a red star".

    Raises:
        SmaltiError: one is no pair, a word is not in the prompt, or both words overlap.
    """
    if isinstance(pairs, str) or not isinstance(pairs, list | tuple):
        raise SmaltiError(f"pairs must be a list of pairs of texts, not {quoted(pairs)}", argument="pairs")
    found = []
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, list | tuple) or len(pair) != 2:
            raise SmaltiError(f"pairs must hold two texts each, not {quoted(pair)}", argument="pairs")
        first = _find(prompt, pair[0], "pairs")
        second = _find(prompt, pair[1], "pairs")
        if first == second:
            try:
                start, end = find_phrase(prompt[first[1] :], pair[1])
            except SmaltiError as error:
                raise SmaltiError(
                    f"pairs must name two places in the prompt: {quoted(pair[1])} is there once",
                    argument="pairs",
                ) from error
            second = first[1] + start, first[1] + end
        if first[0] < second[1] and second[0] < first[1]:
            raise SmaltiError(
                f"pairs must not overlap: {quoted(pair[0])} and {quoted(pair[1])}", argument="pairs"
            )
        found.append((first, second))
    return found


def _find(prompt: str, word: Any, argument: str) -> Place:
    """Return the first place of a word in a prompt; an error names the argument."""
    try:
        return find_phrase(prompt, word)
    except SmaltiError as error:
        text = str(error).replace("phrase", argument, 1)
        raise SmaltiError(text, argument=argument) from error
