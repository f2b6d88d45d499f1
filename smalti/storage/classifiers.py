"""Files of classifiers over tokens: one safetensors file with the labels in its header."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from smalti.common.checks import quoted
from smalti.common.files import atomic_path, make_folder, parse_json
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.model.classifier import ClassifierNetwork, TokenClassifier
from smalti.vq.naming import codebook_name
from smalti.vq.tokenizer import ImageTokenizer

_KIND = "smalti token classifier"
_MOST_LABELS = 10_000


def write_classifier(
    path: str | Path, network: ClassifierNetwork, labels: tuple[str, ...], tokenizer: ImageTokenizer
) -> None:
    """Write a classifier for the codes of an image tokenizer, whole or not at all.

    Raises:
        SmaltiError: the file cannot be written.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {
        "format": "pt",
        "kind": _KIND,
        "labels": json.dumps(labels),
        "codebook": codebook_name(tokenizer),
    }
    make_folder(Path(path).parent)
    with atomic_path(path) as temporary:
        save_file(weights, temporary, metadata)


def read_classifier(path: str | Path, tokenizer: ImageTokenizer) -> TokenClassifier:
    """Read a classifier over the tokens of an image tokenizer, on the CPU.

    Raises:
        SmaltiError: the file is missing or broken, or belongs to another image tokenizer.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict
        labels = _labels(metadata)
        with torch.random.fork_rng(devices=[]):
            sizes = weights["embed.0.weight"].shape[1], weights["linear.weight"].shape[1]
            network = ClassifierNetwork(sizes[0], len(labels), sizes[1])
        network.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, IndexError, RuntimeError, SmaltiError) as error:
        reason = str(error).splitlines()[0]
        raise SmaltiError(
            f"classifier must be a file of `smalti train-classifier`, not {quoted(str(path))}: {reason}",
            argument="classifier",
        ) from error
    if metadata.get("codebook") != codebook_name(tokenizer):
        raise SmaltiError(
            f"classifier must be trained with the model's image tokenizer, which {path} was not",
            argument="classifier",
        )
    return network.classifier(tokenizer.quantize.embedding.weight.detach().cpu().float(), labels)


def with_classifier(components: Components, classifier: Any) -> Components:
    """Return a model with a classifier on the denoiser's device: a `TokenClassifier`, the name of a file, or None.

    Raises:
        SmaltiError: it is none of these, or the file is wrong.
    """
    if classifier is None:
        return components
    if isinstance(classifier, str | os.PathLike):
        classifier = read_classifier(Path(classifier), components.image_tokenizer)
    if not isinstance(classifier, TokenClassifier):
        raise SmaltiError(
            f"classifier must be a file or a TokenClassifier, not {quoted(classifier)}", argument="classifier"
        )
    return dataclasses.replace(components, classifier=classifier.to(components.device))


def _labels(metadata: dict[str, str]) -> tuple[str, ...]:
    """Return the labels in a file's header."""
    labels = parse_json(metadata.get("labels", "null"), "labels") if metadata.get("kind") == _KIND else None
    if isinstance(labels, list) and 2 <= len(labels) <= _MOST_LABELS:
        if all(isinstance(label, str) and label for label in labels):
            return tuple(labels)
    raise SmaltiError("its header has no labels")
