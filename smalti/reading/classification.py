"""Classification of an image by the model that draws images: which text makes it most likely.

This is the Diffusion Classifier (arXiv 2303.16203) for masked models. With equal priors, p(label | x) is the softmax of
log p(x | label), and the bound of `smalti.reading.candidates` takes the place of log p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from smalti.common.checks import check_real, check_whole, quoted
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.reading.candidates import Report, bounds
from smalti.reading.masks import MOST_MASKS, RATIOS, reading_masks

MASKS = 16
"""Masks a label, where nothing is dropped early."""


@dataclass(frozen=True)
class Classification:
    """What a model says of an image and some labels.

    Attributes:
        labels: the labels, in the order in which they were given.
        probabilities: probability of each label; the sum is 1.
        log_likelihoods: bound of the image's log-likelihood under each label, in nats.
        masks: number of masks that each label has seen; fewer than others where it was dropped early.
        passes: number of grids that the denoiser has read.
        temperature: number that the bounds were divided by before the softmax.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    log_likelihoods: tuple[float, ...]
    masks: tuple[int, ...]
    passes: int
    temperature: float

    @property
    def label(self) -> str:
        """The most probable label; the first of equal ones."""
        return self.labels[max(range(len(self.labels)), key=lambda index: self.log_likelihoods[index])]

    def ranked(self) -> list[tuple[str, float]]:
        """Return labels with their probabilities, the most probable first."""
        order = sorted(range(len(self.labels)), key=lambda index: -self.log_likelihoods[index])
        return [(self.labels[index], self.probabilities[index]) for index in order]


def classify(
    components: Components,
    tokens: torch.Tensor,
    labels: Sequence[str],
    *,
    template: str = "{}",
    masks: int = MASKS,
    ratios: tuple[float, float] = RATIOS,
    drop: bool = True,
    temperature: float = 1.0,
    seed: int = 0,
    report: Report | None = None,
) -> Classification:
    """Tell which of some labels describes an image.

    It works with every model that draws from text, and needs no training.

    Args:
        components: the model.
        tokens: (h, w) int64, the image without masks.
        labels: at least two different texts, worded as the training captions are.
        template: text around a label, with {} in its place, such as "a photo of a {}".
        masks: masks a label. More take longer and tell closer labels apart.
        ratios: smallest and largest mask ratio, as for `reading_masks`.
        drop: whether labels that cannot win are dropped early.
        temperature: number above 0 that divides the bounds; `fit_temperature` finds the one that calibrates a model.
        seed: seed of the masks.
        report: called with the passes that are done and those that would be needed without dropping.

    Raises:
        SmaltiError: an argument that is wrong, by name.

    Example:
        >>> import smalti
        >>> pipe = smalti.load("scenes")
        >>> tokens = pipe("a red circle", seed=0).tokens[0]
        >>> classify(pipe.components, tokens, ["circle", "star"], template="a red {}").label
        'circle'
    """
    texts = check_labels(labels, template)
    check_whole("masks", masks, 1, MOST_MASKS)
    check_real("temperature", temperature, above=True)
    height, width = tokens.shape
    side = components.image_tokenizer.config.downscale
    prompts = [components.prompts([text], height * side, width * side, name="labels") for text in texts]
    shared = reading_masks(height, width, masks, ratios=ratios, seed=seed)
    found = bounds(components, tokens, prompts, shared, drop=drop, report=report)
    return Classification(
        labels=tuple(labels),
        probabilities=tuple((found.values / temperature).softmax(0).tolist()),
        log_likelihoods=tuple(found.values.tolist()),
        masks=tuple(found.masks.tolist()),
        passes=found.passes,
        temperature=float(temperature),
    )


def check_labels(labels: Any, template: Any = "{}") -> list[str]:
    """Return the texts of labels in their template.

    Raises:
        SmaltiError: there are fewer than two labels, two are equal, one is not text or blank, or the template has no
            place for them.

    Example:
        >>> check_labels(["circle", "star"], "a red {}")
        ['a red circle', 'a red star']
    """
    if isinstance(labels, str) or not isinstance(labels, list | tuple) or len(labels) < 2:
        given = quoted(labels) if isinstance(labels, str) or not isinstance(labels, list | tuple) else None
        found = given or f"{len(labels)}" + (f": {quoted(labels[0])}" if labels else "")
        raise SmaltiError(f"labels must be a list of at least two texts, not {found}", argument="labels")
    seen: dict[str, str] = {}
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise SmaltiError(
                f"labels must be texts that are not blank, not {quoted(label)}", argument="labels"
            )
        key = " ".join(label.split()).casefold()
        if key in seen:
            raise SmaltiError(
                f"labels must differ, but {quoted(seen[key])} and {quoted(label)} are the same",
                argument="labels",
            )
        seen[key] = label
    if not isinstance(template, str) or template.count("{}") != 1:
        raise SmaltiError(
            f"template must hold {{}} once, in the label's place, not {quoted(template)}", argument="template"
        )
    return [template.replace("{}", label) for label in labels]
