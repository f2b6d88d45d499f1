"""Grounding: where in an image the things are that the phrases of its prompt name.

The likelihood map is the drop of each token's log-likelihood when the phrase is cut out of the prompt. The attention
map says how much each position looks at the phrase. The merged map follows Generate to Ground (arXiv 2507.12236): where
both agree their product counts, where they differ the likelihood alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from smalti.common.checks import check_choice, check_whole, quoted
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.model.prompt import PromptBatch
from smalti.model.spans import find_phrase, ids_inside, prompt_ids
from smalti.reading.attention import attention_maps, check_attention
from smalti.reading.candidates import Report, masks_at_once
from smalti.reading.likelihood import log_probabilities
from smalti.reading.masks import MOST_MASKS, RATIOS, reading_masks
from smalti.reading.regions import scaled

MAPS = ("likelihood", "attention", "merged")
"""Kinds of maps."""

PASSES = 8
"""Masks a prompt."""


@dataclass(frozen=True, eq=False)
class PhraseMap:
    """Where a phrase is.

    Attributes:
        phrase: the phrase.
        without: the prompt without it; "" is the empty prompt.
        drop: (h, w) float32, nats, mean drop of each token's log-likelihood without the phrase; None for attention.
        values: (h, w) float32 from 0 to 1, the map.
    """

    phrase: str
    without: str
    drop: torch.Tensor | None
    values: torch.Tensor


def ground(
    components: Components,
    tokens: torch.Tensor,
    prompt: str,
    phrases: Sequence[str],
    *,
    by: str = "likelihood",
    masks: int = PASSES,
    seed: int = 0,
    report: Report | None = None,
) -> list[PhraseMap]:
    """Return a map over the tokens of an image for each phrase of its prompt.

    Args:
        components: the model. Attention maps need layers that are not compiled.
        tokens: (h, w) int64, the image without masks.
        prompt: what the image shows.
        phrases: parts of the prompt.
        by: "likelihood", "attention" or "merged".
        masks: masks a prompt; attention needs one pass for all phrases.
        seed: seed of the masks.
        report: called with the passes that are done and their number.

    Raises:
        SmaltiError: an argument that is wrong, by name.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> tokens = pipe("a red circle left of a blue square", seed=0).tokens[0]
        >>> found = ground(pipe.components, tokens, "a red circle left of a blue square", ["a red circle"])[0]
        >>> found.without, found.values.shape
        ('left of a blue square', torch.Size([16, 16]))
    """
    places = check_phrases(prompt, phrases)
    check_choice("by", by, MAPS)
    check_whole("masks", masks, 1, MOST_MASKS)
    if by != "likelihood":
        check_attention(components.denoiser)
    side = components.image_tokenizer.config.downscale
    height, width = (side * cells for cells in tokens.shape)
    full = components.prompts([prompt], height, width)
    looked = None if by == "likelihood" else _attention(components, tokens, prompt, full, places)
    if by == "attention":
        assert looked is not None
        return [
            PhraseMap(phrase, without(prompt, place), None, scaled(values))
            for phrase, place, values in zip(phrases, places, looked, strict=True)
        ]
    shared = reading_masks(tokens.shape[0], tokens.shape[1], masks, ratios=RATIOS, seed=seed)
    seen = shared.sum(0).clamp_min(1)
    at_once, total = masks_at_once(components, *tokens.shape), masks * (1 + len(places))

    def likelihood(batch: PromptBatch, done: int) -> torch.Tensor:
        values = log_probabilities(components.denoiser, batch, tokens, shared, at_once=at_once).sum(0) / seen
        if report is not None:
            report(done * masks, total)
        return values

    whole, maps = likelihood(full, 1), []
    for number, (phrase, place) in enumerate(zip(phrases, places, strict=True)):
        text = without(prompt, place)
        rest = components.prompts([text], height, width) if text else full.unconditional()
        drop = whole - likelihood(rest, number + 2)
        values = scaled(drop) if looked is None else merged(scaled(drop), scaled(looked[number]))
        maps.append(PhraseMap(phrase, text, drop, values))
    return maps


def check_phrases(prompt: Any, phrases: Any) -> list[tuple[int, int]]:
    """Return the places of phrases in their prompt, (start, end) in characters.

    Raises:
        SmaltiError: there is no phrase, two are at one place, or one is not in the prompt.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise SmaltiError(f"prompt must be text that is not blank, not {quoted(prompt)}", argument="prompt")
    if isinstance(phrases, str) or not isinstance(phrases, list | tuple) or not phrases:
        raise SmaltiError(
            f"phrase must be a list of at least one text, not {quoted(phrases)}", argument="phrase"
        )
    places = [find_phrase(prompt, phrase) for phrase in phrases]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise SmaltiError(f"phrase must not be given twice: {quoted(phrases[number])}", argument="phrase")
    return places


def without(prompt: str, place: tuple[int, int]) -> str:
    """Return a prompt without the characters of a place, and without the commas and blanks that are left at its ends.

    Example:
        >>> without("a red circle, a blue square", (0, 12))
        'a blue square'
    """
    text = " ".join((prompt[: place[0]] + " " + prompt[place[1] :]).replace(" ,", ",").split())
    return text.strip(" ,;.")


def merged(likelihood: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Merge two maps by how much they agree (arXiv 2507.12236, section 3.3).

    With L and A the maps, s = max(0, SSIM(L, A)) and G = L∘A scaled to 1 it is

        (1 − s)² · L + 2s(1 − s) · (G + L + G∘L) / 2 + s² · G

    Args:
        likelihood, attention: (h, w) float from 0 to 1.

    Returns:
        (h, w) float32 from 0 to 1.
    """
    s = max(0.0, similarity(likelihood, attention))
    product = likelihood * attention
    G = product / product.max().clamp_min(1e-9)
    L = likelihood
    mixed = (1 - s) ** 2 * L + s * (1 - s) * (G + L + G * L) + s**2 * G
    return mixed / mixed.max().clamp_min(1.0)


def similarity(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the structural similarity of two maps of 0 to 1, over the whole map (SSIM, with its usual constants)."""
    low, high = 0.01**2, 0.03**2
    mean_a, mean_b = a.mean(), b.mean()
    covariance = ((a - mean_a) * (b - mean_b)).mean()
    light = (2 * mean_a * mean_b + low) / (mean_a**2 + mean_b**2 + low)
    shape = (2 * covariance + high) / (a.var(correction=0) + b.var(correction=0) + high)
    return float(light * shape)


def _attention(
    components: Components,
    tokens: torch.Tensor,
    prompt: str,
    batch: PromptBatch,
    places: list[tuple[int, int]],
) -> list[torch.Tensor]:
    """Return the attention to each phrase's words, (h, w) float32 each, from one pass over the visible image."""
    side = components.image_tokenizer.config.downscale
    height, width = (side * cells for cells in tokens.shape)
    ids = prompt_ids(
        prompt, components.denoiser.config.prompt, components.text_tokenizer, height=height, width=width
    )
    columns = torch.tensor([index for index, _, _ in ids])
    visible = torch.zeros(1, *tokens.shape, dtype=torch.bool, device="cpu")
    maps = attention_maps(components.denoiser, batch, tokens, visible, columns)
    return [maps[..., ids_inside(ids, prompt, place)].sum(-1) for place in places]
