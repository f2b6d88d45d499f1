"""The trained scorer: its two networks, and what it knows: nouns, a threshold, and the colours of things."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from smalti.common.files import atomic_path
from smalti.errors import SmaltiError
from smalti.evaluation.suites.objects.networks import NounClassifier, Segmenter

WEIGHTS = Path(__file__).parents[3] / "models" / "objects-scorer.safetensors"


@dataclass(frozen=True)
class Knowledge:
    """What the scorer knows apart from its weights.

    Attributes:
        nouns: nouns of the classifier; its last output is anything else.
        claimed: nouns that the scorer is reliable on. A thing with another noun is unknown.
        threshold: smallest probability of a noun that counts.
        names: words for claimed nouns that a number may stand before, such as "loaf of bread", where they differ.
        kinds: kinds of things that a claimed noun belongs to, such as ("bird", "animal").
        colors: the colours in which both training sprites and held-out ones show a claimed noun.
        held_out: pairs of claimed noun and colour that training never shows.
        drawn: all nouns that have a sprite, claimed or not.
    """

    nouns: Sequence[str]
    claimed: Sequence[str]
    threshold: float
    names: Mapping[str, str]
    kinds: Mapping[str, Sequence[str]]
    colors: Mapping[str, Sequence[str]]
    held_out: Sequence[tuple[str, str]]
    drawn: Sequence[str]

    def name_of(self, noun: str) -> str:
        """Return a noun in words that a number may stand before."""
        return self.names.get(noun, noun)

    def kinds_of(self) -> dict[str, frozenset[str]]:
        """Return the claimed nouns that count as each class: a kind of things, or a noun."""
        found = {noun: {noun} for noun in self.claimed}
        for noun in self.claimed:
            for kind in self.kinds.get(noun, ()):
                found.setdefault(kind, set()).add(noun)
        return {name: frozenset(nouns) for name, nouns in found.items()}


@dataclass(frozen=True)
class Scorer:
    """The networks of the scorer and what it knows.

    Attributes:
        segmenter: finds things.
        classifier: names crops.
        knowledge: nouns, threshold, colours.
    """

    segmenter: Segmenter
    classifier: NounClassifier
    knowledge: Knowledge


def save_scorer(scorer: Scorer, path: str | Path) -> None:
    """Write a scorer: the weights in float16, what it knows in the file's metadata; whole or not at all.

    Raises:
        SmaltiError: the file cannot be written.
    """
    weights: dict[str, torch.Tensor] = {}
    for part in ("segmenter", "classifier"):
        for name, tensor in getattr(scorer, part).state_dict().items():
            if tensor.is_floating_point():
                weights[f"{part}.{name}"] = tensor.half().contiguous()
    with atomic_path(path) as temporary:
        save_file(weights, temporary, {"knowledge": json.dumps(asdict(scorer.knowledge))})


def load_scorer(path: str | Path = WEIGHTS) -> Scorer:
    """Read a scorer, in float32 on the CPU.

    Raises:
        SmaltiError: the file is missing or does not hold a scorer.

    Example:
        >>> len(load_scorer().knowledge.claimed) >= 200
        True
    """
    try:
        with safe_open(path, "pt") as file:
            knowledge = _knowledge(json.loads(file.metadata()["knowledge"]))
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        segmenter, classifier = Segmenter(), NounClassifier(len(knowledge.nouns))
        for name, network in (("segmenter", segmenter), ("classifier", classifier)):
            own = {
                key[len(name) + 1 :]: value for key, value in weights.items() if key.startswith(f"{name}.")
            }
            _fill(network, own)
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SmaltiError(f"{path} does not hold a scorer of objects: {reason}") from error
    return Scorer(segmenter.eval(), classifier.eval(), knowledge)


@lru_cache(maxsize=2)
def shipped_scorer(path: str = "") -> Scorer:
    """Return the scorer of a file, read once; by default the one in the package."""
    return load_scorer(path or WEIGHTS)


def _fill(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Put weights into a network; the counters of its normalisations are not stored."""
    wanted = {name for name, value in network.state_dict().items() if value.is_floating_point()}
    if wanted != set(weights):
        raise KeyError(f"its tensors differ in {sorted(wanted ^ set(weights))[:3]}")
    network.load_state_dict(weights, strict=False)


def _knowledge(entry: Any) -> Knowledge:
    """Return what a file's metadata says."""
    return Knowledge(
        tuple(entry["nouns"]),
        tuple(entry["claimed"]),
        float(entry["threshold"]),
        dict(entry["names"]),
        {noun: tuple(kinds) for noun, kinds in entry["kinds"].items()},
        {noun: tuple(colors) for noun, colors in entry["colors"].items()},
        tuple((noun, color) for noun, color in entry["held_out"]),
        tuple(entry["drawn"]),
    )
