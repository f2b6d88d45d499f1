"""A second, smaller model beside a model, which some budgets ask what to accept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.storage.folder import load_codebook, load_config, load_denoiser, load_text_tokenizer
from smalti.storage.inspection import inspect


def verifier_bytes(folder: Path, second: Path | None, dtype: torch.dtype) -> int:
    """Return the bytes of a second model's denoiser in a dtype; 0 without one.

    Raises:
        SmaltiError: its codes are not those of the model in `folder`.
    """
    if second is None:
        return 0
    sizes = [load_config(one).codebook_size for one in (folder, second)]
    if sizes[0] != sizes[1] or not torch.equal(load_codebook(folder), load_codebook(second)):
        raise SmaltiError(
            f"verifier must have the model's image tokenizer, which {second} has not", argument="verifier"
        )
    return int(inspect(second)["parameters"]["total"]) * dtype.itemsize


def with_verifier(components: Components, second: Path | None, dtype: torch.dtype) -> Components:
    """Return a model with the denoiser of another folder as its verifier, if there is one.

    The image tokenizer is the model's own.
    """
    if second is None:
        return components
    verifier = Components(
        load_denoiser(second, device=components.device, dtype=dtype),
        components.image_tokenizer,
        load_text_tokenizer(second),
        name=second.name,
    )
    return dataclasses.replace(components, verifier=verifier)
