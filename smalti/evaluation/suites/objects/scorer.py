"""The trained scorer: its two networks, and what it knows: nouns, a threshold, and the colours of things."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from smalti.common.files import atomic_path, check_regular
from smalti.errors import SmaltiError
from smalti.evaluation.suites.objects.naming import NounClassifiers
from smalti.evaluation.suites.objects.networks import Segmenter
from smalti.worlds.objects.nouns import geneval_nouns
from smalti.worlds.objects.vocabulary import Vocabulary

WEIGHTS = Path(__file__).parents[3] / "models" / "objects-scorer.safetensors"
_SCALE = ".scale of rows"


@dataclass(frozen=True)
class Knowledge:
    """What the scorer knows apart from its weights.

    A class is a noun, a kind of things, or one of GenEval's classes. A thing has a class if the probabilities of the
    class's nouns add up to the threshold: what is either a car or a taxi is a car.

    Attributes:
        nouns: nouns of the classifiers; their last output is anything else.
        threshold: smallest probability of a class that counts.
        classes: the nouns of each class that the scorer claims to know. A thing of no such class is unknown.
        vocabulary: the nouns among these classes, with their names, colours and kinds: what prompts ask for.
        drawn: all nouns that have a sprite, claimed or not.
    """

    nouns: Sequence[str]
    threshold: float
    classes: Mapping[str, Sequence[str]]
    vocabulary: Vocabulary
    drawn: Sequence[str]

    @cached_property
    def members(self) -> torch.Tensor:
        """(nouns + 1, classes) floats: 1 where a class has a noun."""
        place = {noun: number for number, noun in enumerate(self.nouns)}
        members = torch.zeros(len(self.nouns) + 1, len(self.classes))
        for number, nouns in enumerate(self.classes.values()):
            members[[place[noun] for noun in nouns], number] = 1
        return members

    def classes_of(self, shares: torch.Tensor) -> dict[str, float]:
        """Return the classes of a thing, the most certain first, with their probabilities.

        Args:
            shares: (nouns + 1,) probabilities of the nouns, and of anything else.
        """
        certain = (shares @ self.members).tolist()
        found = [
            (sure, name) for sure, name in zip(certain, self.classes, strict=True) if sure >= self.threshold
        ]
        return {name: sure for sure, name in sorted(found, reverse=True)}

    def has_sprite(self, name: str) -> bool:
        """Tell whether any sprite shows a class, claimed or not."""
        return name in self.classes or bool(geneval_nouns(name, self.drawn))


@dataclass(frozen=True)
class Scorer:
    """The networks of the scorer and what it knows.

    Attributes:
        segmenter: finds things.
        classifier: the networks that name crops.
        knowledge: nouns, threshold, colours.
    """

    segmenter: Segmenter
    classifier: NounClassifiers
    knowledge: Knowledge


def save_scorer(scorer: Scorer, path: str | Path) -> None:
    """Write a scorer, what it knows in the file's metadata; whole or not at all.

    Matrices and kernels are stored in int8 with a float16 scale for each row, everything else in float16.

    Raises:
        SmaltiError: the file cannot be written.
    """
    weights: dict[str, torch.Tensor] = {}
    for part in ("segmenter", "classifier"):
        for name, tensor in getattr(scorer, part).state_dict().items():
            if tensor.ndim > 1:
                scale = (tensor.flatten(1).abs().amax(dim=1) / 127).clamp_min(1e-7).half()
                rows = tensor / scale.float().reshape(-1, *[1] * (tensor.ndim - 1))
                weights[f"{part}.{name}"] = rows.round().clamp(-127, 127).to(torch.int8).contiguous()
                weights[f"{part}.{name}{_SCALE}"] = scale
            elif tensor.is_floating_point():
                weights[f"{part}.{name}"] = tensor.half().contiguous()
    with atomic_path(path) as temporary:
        save_file(weights, temporary, {"knowledge": json.dumps(_entry(scorer.knowledge))})


def load_scorer(path: str | Path = WEIGHTS) -> Scorer:
    """Read a scorer, in float32 on the CPU.

    Raises:
        SmaltiError: the file is missing or does not hold a scorer.
    """
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            knowledge = _knowledge(json.loads(file.metadata()["knowledge"]))
            stored = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        weights = {name: _unscaled(name, stored) for name in stored if not name.endswith(_SCALE)}
        mapped, described = (_members(weights, f"classifier.{kind}.") for kind in ("mapped", "described"))
        segmenter, classifier = Segmenter(), NounClassifiers(len(knowledge.nouns), mapped, described)
        for name, network in (("segmenter", segmenter), ("classifier", classifier)):
            own = {
                key[len(name) + 1 :]: value for key, value in weights.items() if key.startswith(f"{name}.")
            }
            _fill(network, own)
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SmaltiError(f"{path} does not hold a scorer of objects: {reason}") from error
    return Scorer(segmenter.eval(), classifier.eval(), knowledge)


def _unscaled(name: str, stored: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return a stored tensor times the scale of its rows, if it has one."""
    tensor, scale = stored[name], stored.get(f"{name}{_SCALE}")
    return tensor if scale is None else tensor * scale.reshape(-1, *[1] * (tensor.ndim - 1))


def _members(weights: dict[str, torch.Tensor], prefix: str) -> int:
    """Return the number of networks whose tensors have names with this prefix and a number."""
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})


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


def _entry(knowledge: Knowledge) -> dict[str, Any]:
    """Return what a scorer knows, ready for JSON."""
    return {
        "nouns": list(knowledge.nouns),
        "threshold": knowledge.threshold,
        "classes": {name: list(nouns) for name, nouns in knowledge.classes.items()},
        "vocabulary": knowledge.vocabulary.to_json(),
        "drawn": list(knowledge.drawn),
    }


def _knowledge(entry: Any) -> Knowledge:
    """Return what a file's metadata says."""
    return Knowledge(
        tuple(entry["nouns"]),
        float(entry["threshold"]),
        {name: tuple(nouns) for name, nouns in entry["classes"].items()},
        Vocabulary.from_json(entry["vocabulary"]),
        tuple(entry["drawn"]),
    )
