"""The methods of `Pipeline` that read images; each is a function of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from smalti.components import Components
from smalti.editing.explained import ExplainResult, explain_image
from smalti.editing.grounded import THRESHOLD, GroundResult, find_phrases
from smalti.editing.source import read_image
from smalti.generation.settings import GenerationSettings
from smalti.reading.candidates import Report
from smalti.reading.classification import MASKS, Classification
from smalti.reading.classification import classify as classify_tokens
from smalti.reading.features import Features
from smalti.reading.features import features as features_of_tokens
from smalti.reading.grounding import PASSES


class Reader(Protocol):
    """What these functions need of a pipeline.

    Attributes:
        components: its loaded parts.
        settings: its default settings, which have the size of its canvas.
    """

    components: Components
    settings: GenerationSettings


def classify(
    pipe: Reader,
    image: Any,
    labels: Sequence[str],
    *,
    template: str = "{}",
    masks: int = MASKS,
    temperature: float = 1.0,
    seed: int = 0,
    report: Report | None = None,
) -> Classification:
    """Tell which of some labels describes an image, by the likelihood of its tokens under each.

    Args:
        image: as for `edit`.
        labels, template, masks, temperature, seed, report: as for `smalti.reading.classification.classify`.

    Raises:
        SmaltiError: an argument that is wrong, by name.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> pipe.classify(pipe("a red circle", seed=0), ["a red circle", "a blue circle"]).label
        'a red circle'
    """
    return classify_tokens(
        pipe.components,
        read_image(pipe.components, image, pipe.settings.size).tokens,
        labels,
        template=template,
        masks=masks,
        temperature=temperature,
        seed=seed,
        report=report,
    )


def ground(
    pipe: Reader,
    image: Any,
    phrases: Sequence[str],
    *,
    prompt: str | None = None,
    by: str = "likelihood",
    threshold: float = THRESHOLD,
    masks: int = PASSES,
    seed: int = 0,
    report: Report | None = None,
) -> GroundResult:
    """Find where in an image the things are that phrases of its prompt name.

    Args:
        image: as for `edit`.
        phrases: parts of the prompt.
        prompt: what the image shows; None is the prompt that it was made with.
        by, threshold, masks, seed, report: as for `smalti.editing.grounded.find_phrases`.

    Raises:
        SmaltiError: an argument that is wrong, by name.

    Example:
        >>> import smalti
        >>> len((pipe := smalti.load("scenes")).ground(pipe("a red circle", seed=0), ["a red circle"]).phrases)
        1
    """
    return find_phrases(
        pipe.components,
        image,
        phrases,
        pipe.settings.size,
        prompt=prompt,
        by=by,
        threshold=threshold,
        masks=masks,
        seed=seed,
        report=report,
    )


def explain(
    pipe: Reader,
    image: Any,
    prompt: str | None = None,
    *,
    words: Sequence[str] | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    masks: int = PASSES,
    seed: int = 0,
    report: Report | None = None,
) -> ExplainResult:
    """Tell what the words of a prompt say about an image, in nats, and where.

    Args:
        image: as for `edit`.
        prompt: what the image shows; None is the prompt that it was made with.
        words, pairs, masks, seed, report: as for `smalti.reading.information.explain`.

    Raises:
        SmaltiError: an argument that is wrong, by name.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> found = pipe.explain(pipe("a red circle", seed=0), words=["red"], pairs=[("red", "circle")])
        >>> found.words[0].nats > 0, found.figure().size
        (True, (1144, 608))
    """
    return explain_image(
        pipe.components,
        image,
        pipe.settings.size,
        prompt=prompt,
        words=words,
        pairs=pairs,
        masks=masks,
        seed=seed,
        report=report,
    )


def features(
    pipe: Reader, image: Any, prompt: str | None, *, layers: Sequence[int] | None = None
) -> Features:
    """Return what the layers hold of an image, for probes: hidden vectors, and attention to the prompt's words.

    They cover the model's canvas. An image of the canvas's proportions fills it.

    Args:
        image: as for `edit`.
        prompt, layers: as for `smalti.reading.features.features`.

    Raises:
        SmaltiError: an argument that is wrong, by name.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> pipe.features(pipe("a red circle", seed=0), "a red circle", layers=[4, 8]).stacked().shape
        torch.Size([16, 16, 768])
    """
    tokens = read_image(pipe.components, image, pipe.settings.size).tokens
    return features_of_tokens(pipe.components, tokens, prompt, layers=layers)
