"""What a denoiser's configuration describes before any image is encoded: its parts, its shape, whether they fit."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch

from smalti.data.sources import Source
from smalti.data.tokens import TokenShards
from smalti.errors import SmaltiError
from smalti.model.config import MODEL_TYPE, DenoiserConfig, format_group_weights
from smalti.model.denoiser import Denoiser
from smalti.objective.masking import Mixture
from smalti.storage.folder import NoInit, load_config, load_image_tokenizer
from smalti.training.adapting import adapted_shape, base_config
from smalti.training.caching import second_set
from smalti.training.config import DenoiserRunConfig
from smalti.training.encoding import open_source
from smalti.training.fitting import check_memory
from smalti.training.reading import check_model_keys, name_key
from smalti.vq.tokenizer import ImageTokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Basics:
    """The parts of a denoiser's training that need no encoded images.

    Attributes:
        image_tokenizer: the trained image tokenizer, on the CPU.
        grid: height and width of the token grid.
        masking: the mixture of masking rules.
        group_weights: weight of each grouping of grouped cross-entropy, by its number of groups.
        model: the denoiser on the meta device, with the size of the text vocabulary that the configuration asks for.
        source: the training images.
        second: the second set of images, or None without one.
    """

    image_tokenizer: ImageTokenizer
    grid: tuple[int, int]
    masking: Mixture
    group_weights: dict[int, float]
    model: Denoiser
    source: Source | TokenShards
    second: Source | TokenShards | None = None


def check_basics(config: DenoiserRunConfig) -> Basics:
    """Read the parts that a configuration names, and check that they fit each other and the device's memory.

    Raises:
        SmaltiError: parts are missing or damaged, or do not fit the configuration, or the training does not fit.
    """
    with name_key("tokenizer"):
        image_tokenizer = load_image_tokenizer(config.tokenizer)
    if config.start_from:
        with name_key("start_from"):
            load_config(config.start_from)
    grid = _find_grid(config, image_tokenizer)
    masking = Mixture.parse(config.objective.masking)
    weights = _find_group_weights(config, image_tokenizer)
    shape = make_model_config(config, image_tokenizer, weights, config.text.vocab_size)
    with torch.device("meta"), NoInit():
        model = Denoiser(shape)
    check_memory(config, partial(_counted, model), shape, grid)
    with name_key("data"):
        source = open_source(config.data)
    other, second = second_set(config), None
    if other is not None:
        with name_key("regularization"):
            second = open_source(other.data)
    for one in (grid, *_further_grids(config, source, image_tokenizer.config.downscale)):
        masking.check(*one)
        with name_key("data.buckets"):
            shape.slots(*one)
    return Basics(image_tokenizer, grid, masking, weights, model, source, second)


def _counted(model: Denoiser, config: DenoiserRunConfig) -> Denoiser:
    """Return the model whose bytes a training needs: the whole one, or a frozen base with adapters."""
    return adapted_shape(config, model.config) if config.adapter else model


def model_config_for(config: DenoiserRunConfig, basics: Basics, vocab_size: int) -> DenoiserConfig:
    """Return the model's configuration with the text vocabulary that its text tokenizer has."""
    return make_model_config(config, basics.image_tokenizer, basics.group_weights, vocab_size)


def make_model_config(
    config: DenoiserRunConfig, image_tokenizer: ImageTokenizer, weights: dict[int, float], vocab_size: int
) -> DenoiserConfig:
    """Return the configuration's `model` section, completed by the fields that other sections decide.

    A model that continues from another keeps its sampling settings, presets and text vocabulary where the section has
    none.
    """
    known = {field.name for field in dataclasses.fields(DenoiserConfig)} - {"rope"} | {"rope_parameters"}
    check_model_keys(config.model, known)
    if config.adapter:
        return base_config(config)
    return DenoiserConfig.from_dict(
        {
            "model_type": MODEL_TYPE,
            "codebook_size": image_tokenizer.config.codebook_size,
            "vocab_size": vocab_size,
            "image_size": config.data.size,
            "mm_vqvae": "vq",
            "flip_ratio": config.objective.flip_ratio,
            "prompt_drop_rate": config.objective.prompt_drop_rate,
            "gen_edit_loss_weight": config.objective.edit_loss_weight,
            "group_ce_weight": format_group_weights(weights),
            **_inherited(config),
            **config.model,
        }
    )


def _inherited(config: DenoiserRunConfig) -> dict[str, Any]:
    """Return what a model keeps of the one that it continues from: sampling settings, presets, text vocabulary."""
    if not config.start_from:
        return {}
    start = load_config(config.start_from)
    found: dict[str, Any] = {"sampling": dict(start.sampling), "presets": dict(start.presets)}
    if not config.match_tokenizers:
        # A table may have more rows than its text tokenizer has tokens.
        found["vocab_size"] = start.vocab_size
    return found


def _find_grid(config: DenoiserRunConfig, image_tokenizer: ImageTokenizer) -> tuple[int, int]:
    with name_key("data"):
        side, downscale = config.data.size, image_tokenizer.config.downscale
    if side % downscale:
        raise SmaltiError(f"data.size must be a multiple of the tokenizer's {downscale}, not {side}")
    return side // downscale, side // downscale


def _further_grids(
    config: DenoiserRunConfig, source: Source | TokenShards, downscale: int
) -> list[tuple[int, int]]:
    """Return the grids of aspect-ratio buckets, in tokens."""
    if isinstance(source, TokenShards):
        return list(source.grids)
    shapes = getattr(config.data, "shapes", None) or ()
    for side in sorted({side for shape in shapes for side in shape}):
        if side % downscale:
            raise SmaltiError(
                f"data.buckets must have sides that are multiples of the tokenizer's {downscale}, not {side}"
            )
    return [(height // downscale, width // downscale) for height, width in shapes]


def _find_group_weights(config: DenoiserRunConfig, image_tokenizer: ImageTokenizer) -> dict[int, float]:
    """Return the configuration's weights of grouped cross-entropy by number of groups, or those of `start_from`."""
    weights = config.objective.group_weights
    if weights is None:
        return load_config(config.kept_from).group_weights if config.kept_from else {}
    codes = image_tokenizer.config.codebook_size
    for number in weights:
        if number > codes:
            raise SmaltiError(
                f"objective.group_weights must have at most {codes} groups, one per code, not {number}"
            )
    return weights
