"""Files of classifiers over tokens: one safetensors file with the labels in its header."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch

from smalti.common.checks import quoted
from smalti.common.files import make_folder, parse_json
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.model.classifier import ClassifierNetwork, TokenClassifier
from smalti.storage.small_files import read_small, write_small
from smalti.vq.naming import codebook_name
from smalti.vq.tokenizer import ImageTokenizer

LABELS = "labels"
"""Key of the labels in the metadata of a classifier's file."""

_KIND = "smalti token classifier"
_MOST_LABELS = 10_000
_LINEAR, _WIDEST = "linear.weight", 1024


def write_classifier(
    path: str | Path, network: ClassifierNetwork, labels: tuple[str, ...], tokenizer: ImageTokenizer
) -> None:
    """Write a classifier for the codes of an image tokenizer, whole or not at all.

    Raises:
        SmaltiError: the file cannot be written.
    """
    metadata = {"kind": _KIND, LABELS: json.dumps(labels), "codebook": codebook_name(tokenizer)}
    make_folder(Path(path).parent)
    write_small(path, network.state_dict(), metadata)


def read_classifier(path: str | Path, tokenizer: ImageTokenizer) -> TokenClassifier:
    """Read a classifier over the tokens of an image tokenizer, on the CPU.

    Raises:
        SmaltiError: the file is missing or broken, or belongs to another image tokenizer.
    """
    codebook = tokenizer.quantize.embedding.weight.detach().cpu().float()
    try:
        weights, metadata = read_small(path)
        labels = _labels(metadata)
        if metadata.get("codebook") != codebook_name(tokenizer):
            raise SmaltiError("it was trained with another image tokenizer")
        network = _network(weights, codebook.shape[1], len(labels))
        classifier = network.classifier(codebook, labels)
    except SmaltiError as error:
        raise SmaltiError(
            f"classifier must be a file of `smalti train-classifier`, not {quoted(str(path))}: {error}",
            argument="classifier",
        ) from error
    return classifier


def _network(weights: dict[str, torch.Tensor], codebook_dim: int, labels: int) -> ClassifierNetwork:
    """Return the network of a file's tensors.

    Raises:
        SmaltiError: a tensor is missing, unknown or of another shape.
    """
    shape = tuple(weights[_LINEAR].shape) if _LINEAR in weights else ()
    if len(shape) != 2 or not 1 <= shape[1] <= _WIDEST:
        raise SmaltiError(f"{_LINEAR} must be ({labels}, 1 to {_WIDEST}), not {shape}")
    with torch.random.fork_rng(devices=[]):
        network = ClassifierNetwork(codebook_dim, labels, shape[1])
    needed = network.state_dict()
    for name in {**needed, **weights}:
        if name not in needed or name not in weights:
            raise SmaltiError(f"it {'lacks' if name in needed else 'holds an unknown'} {quoted(name)}")
        if weights[name].shape != needed[name].shape:
            raise SmaltiError(f"{name} must be {tuple(needed[name].shape)}, not {tuple(weights[name].shape)}")
    network.load_state_dict(weights)
    return network


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
    labels = parse_json(metadata.get(LABELS, "null"), "labels") if metadata.get("kind") == _KIND else None
    if isinstance(labels, list) and 2 <= len(labels) <= _MOST_LABELS:
        if all(isinstance(label, str) and label for label in labels) and len(set(labels)) == len(labels):
            return tuple(labels)
    raise SmaltiError("its header has no labels")
