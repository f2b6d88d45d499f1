"""`load`: a model by name, folder or hub name, as the object that a user holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from smalti.model.classifier import TokenClassifier
from smalti.pipeline.pipeline import Pipeline
from smalti.storage.light import with_light
from smalti.storage.loading import load_components
from smalti.storage.words import read_words, with_stored_words


def load(
    model: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    quantize_activations: bool = False,
    offload: str | None = None,
    memory: str | None = None,
    image_dtype: str | None = None,
    compile: bool = False,
    revision: str | None = None,
    local_files_only: bool = False,
    adapter: str | Path | Sequence[str | Path] | None = None,
    adapter_scale: float | Sequence[float] | None = None,
    verifier: str | Path | None = None,
    classifier: str | Path | TokenClassifier | None = None,
    light: str | Path | None = None,
    word: str | Path | Sequence[str | Path] | None = None,
) -> Pipeline:
    """Read a model, as `smalti.storage.loading.load_components` does.

    Args:
        model: the name of a bundled model ("objects" or "scenes"), a folder, or a name on the Hugging Face hub
            (organisation/name). A folder called "scenes" is "./scenes". None is "objects".
        device: "cpu", "cuda", "cuda:1", ...
        dtype: dtype of the denoiser: "float32", "bfloat16" or "float16", or PyTorch's; None chooses by device.
        quantize: "int8", "int4" or "fp8" stores the layers' matrices in fewer bits; needs torchao.
        quantize_activations: whether products of these layers run in 8 bits, too; not for int4.
        offload: "layers" keeps the layers in the host's memory and copies each to the GPU when its turn comes.
        memory: such as "8GB" or "8GiB": take the first loading mode whose computed need fits.
        image_dtype: dtype of the image tokenizer, "float32" or "bfloat16"; None is float32, or what `memory` decides.
        compile: whether the denoiser's layers are compiled when they are first used. Needs a C++ compiler.
        revision: git revision of a model on the hub: a branch, a tag or a commit.
        local_files_only: whether a model on the hub is taken from the cache, without the network.
        adapter: adapter folder in peft's layout, or several, whose changes add up.
        adapter_scale: factor of what each adapter changes: one number for all, or one an adapter; None is 1.
        verifier: a smaller model with the same image tokenizer, named like `model`, for `budget="verified"`.
        classifier: file of `smalti train-classifier`, or a `TokenClassifier`, for `steering="classifier:LABEL"`.
        light: file of `smalti train-light`, for `reuse="light"`.
        word: file of a word that `smalti train-word` learned, or several, which prompts can then use by name.

    Raises:
        SmaltiError: there is no such model, or it is broken; an argument that is wrong, by name; memory that is too
            small, before anything is read.

    Example:
        >>> import smalti
        >>> smalti.load("scenes")("a red circle", seed=0).images[0].size
        (256, 256)
    """
    words = read_words(word)
    components = load_components(
        model,
        device=device,
        dtype=dtype,
        quantize=quantize,
        quantize_activations=quantize_activations,
        offload=offload,
        memory=memory,
        image_dtype=image_dtype,
        compile=compile,
        revision=revision,
        local_files_only=local_files_only,
        adapter=adapter,
        adapter_scale=adapter_scale,
        verifier=verifier,
        classifier=classifier,
    )
    return Pipeline(with_stored_words(with_light(components, light), words))
