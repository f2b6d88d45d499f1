"""Prepare a denoiser's training: read, encode, train or build its parts from a configuration."""

from __future__ import annotations

import dataclasses
import os
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from smalti.common.devices import find_device
from smalti.common.randomness import stream
from smalti.data.cache import TokenCache
from smalti.data.folder import ImageFolder
from smalti.data.sources import Source
from smalti.errors import SmaltiError
from smalti.model.config import MODEL_TYPE, DenoiserConfig, format_group_weights
from smalti.model.denoiser import Denoiser
from smalti.model.text import TextTokenizer
from smalti.model.words import caption_words
from smalti.objective.masking import Mixture
from smalti.runtime.compiling import check_compiler, compile_layers
from smalti.storage.folder import load_config, load_denoiser, load_image_tokenizer, load_words
from smalti.training.caching import fingerprint, make_cache
from smalti.training.captions import check_captions, cut_caption, find_text_tokenizer
from smalti.training.codes import add_codebook_conditioning
from smalti.training.config import DenoiserRunConfig
from smalti.training.distribution import first_alone
from smalti.training.reading import check_model_keys, name_key
from smalti.training.sizing import check_room, check_start, outline
from smalti.training.state import latest_checkpoint
from smalti.vq.groups import CodeGroups, file_name
from smalti.vq.tokenizer import ImageTokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class DenoiserParts:
    """The parts of a denoiser's training.

    Attributes:
        image_tokenizer: the trained image tokenizer, on the CPU.
        text: the text tokenizer.
        text_json: content of its tokenizer.json.
        cache: the training images as tokens, with captions.
        counts: (V,) int64, occurrences of each code in the cache.
        grid: height and width of the token grid.
        masking: the mixture of masking rules.
        group_weights: weight of each grouping of grouped cross-entropy, by its number of groups.
        groups: the groupings, in the order of `group_weights`.
        model_config: configuration of the denoiser.
        model: the denoiser with its starting weights, on the CPU.
        words: words of all captions that this model and its predecessors were trained on.
    """

    image_tokenizer: ImageTokenizer
    text: TextTokenizer
    text_json: str
    cache: TokenCache
    counts: torch.Tensor
    grid: tuple[int, int]
    masking: Mixture
    group_weights: dict[int, float]
    groups: list[CodeGroups]
    model_config: DenoiserConfig
    model: Denoiser
    words: list[str]


def prepare(config: DenoiserRunConfig) -> DenoiserParts:
    """Return the parts of the training that a configuration describes.

    Raises:
        SmaltiError: parts are missing or damaged, or do not fit the configuration.
    """
    with name_key("tokenizer"):
        image_tokenizer = load_image_tokenizer(config.tokenizer)
    if config.start_from:
        with name_key("start_from"):
            load_config(config.start_from)
    grid = _find_grid(config, image_tokenizer)
    masking = Mixture.parse(config.objective.masking)
    masking.check(*grid)
    weights = _find_group_weights(config, image_tokenizer)
    # Check the model section before the images are encoded, which takes minutes.
    make_model_config(config, image_tokenizer, weights, config.text.vocab_size)
    with name_key("data"):
        source = config.data.training()
    with first_alone():
        early = _check_captions(config, source, image_tokenizer, weights)
        cache = make_cache(config, source, image_tokenizer)
        groups = [_make_groups(config, image_tokenizer, number) for number in weights]
        text_path = early or find_text_tokenizer(config, cache.captions)
    counts = torch.bincount(cache.tokens.flatten(), minlength=image_tokenizer.config.codebook_size)
    text = TextTokenizer.from_file(text_path)
    model_config = make_model_config(config, image_tokenizer, weights, text.vocab_size)
    if config.text.cut_captions:
        cache.captions = [
            cut_caption(caption, text, model_config.max_prompt_tokens) for caption in cache.captions
        ]
    return DenoiserParts(
        image_tokenizer=image_tokenizer,
        text=text,
        text_json=text_path.read_text(encoding="utf-8"),
        cache=cache,
        counts=counts,
        grid=grid,
        masking=masking,
        group_weights=weights,
        groups=groups,
        model_config=model_config,
        model=_make_model(config, model_config, image_tokenizer, counts),
        words=_find_words(config, cache),
    )


def make_model_config(
    config: DenoiserRunConfig, image_tokenizer: ImageTokenizer, weights: dict[int, float], vocab_size: int
) -> DenoiserConfig:
    """Return the configuration's `model` section, completed by the fields that other sections decide.

    A model that continues from another keeps its sampling settings and presets where the section has none.
    """
    known = {field.name for field in dataclasses.fields(DenoiserConfig)} - {"rope"} | {"rope_parameters"}
    check_model_keys(config.model, known)
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
    """Return the sampling settings and presets of the model that training continues from, if there is one."""
    if not config.start_from:
        return {}
    start = load_config(config.start_from)
    return {"sampling": dict(start.sampling), "presets": dict(start.presets)}


def codebook_of(image_tokenizer: ImageTokenizer) -> torch.Tensor:
    """Return the codes of an image tokenizer, (V, C) float."""
    return image_tokenizer.quantize.embedding.weight.detach()


@torch.no_grad()
def init_codes(denoiser: Denoiser, codebook: torch.Tensor, generator: torch.Generator) -> None:
    """Start the embedding and the head of image tokens as random projections of the codes.

    Similar codes then start with similar vectors. Otherwise a model would have to learn the similarity code by code.
    The variance is the usual one.

    Args:
        denoiser: the model, changed in place.
        codebook: (V, C) float.
        generator: source of the projections, on the CPU.
    """
    codes = codebook / codebook.norm(dim=1, keepdim=True).clamp_min(1e-8)
    for weight in (denoiser.gen_embedding.weight, denoiser.gen_predictor.weight):
        projection = torch.randn(codes.shape[1], weight.shape[1], generator=generator)
        weight[: len(codes)] = 0.02 * codes @ projection


def _find_grid(config: DenoiserRunConfig, image_tokenizer: ImageTokenizer) -> tuple[int, int]:
    side, downscale = config.data.size, image_tokenizer.config.downscale
    if side % downscale:
        raise SmaltiError(f"data.size must be a multiple of the tokenizer's {downscale}, not {side}")
    return side // downscale, side // downscale


def _find_group_weights(config: DenoiserRunConfig, image_tokenizer: ImageTokenizer) -> dict[int, float]:
    """Return the configuration's weights of grouped cross-entropy by number of groups, or those of `start_from`."""
    weights = config.objective.group_weights
    if weights is None:
        return load_config(config.start_from).group_weights if config.start_from else {}
    codes = image_tokenizer.config.codebook_size
    for number in weights:
        if number > codes:
            raise SmaltiError(
                f"objective.group_weights must have at most {codes} groups, one per code, not {number}"
            )
    return weights


def _make_groups(config: DenoiserRunConfig, image_tokenizer: ImageTokenizer, number: int) -> CodeGroups:
    """Return a grouping into `number` groups, and keep it in the cache's folder."""
    path = Path(config.cache.path) / file_name("groups", number)
    codebook = codebook_of(image_tokenizer)
    if os.path.exists(path):
        return CodeGroups.load(path, codebook)
    groups = CodeGroups.from_kmeans(codebook, number, seed=config.seed)
    groups.save(path)
    return groups


def _check_captions(
    config: DenoiserRunConfig, source: Source, image_tokenizer: ImageTokenizer, weights: dict[int, float]
) -> Path | None:
    """Check the captions of a folder before its images are encoded, and return the file of the text tokenizer.

    The text tokenizer is then trained on the captions as the cache will hold them. The result is None for other
    sources, whose captions come with their images.
    """
    if not isinstance(source, ImageFolder):
        return None
    # The cache repeats a small folder's images, and their captions with them.
    count = min(config.cache.samples, config.text.captions)
    path = find_text_tokenizer(config, list(islice(cycle(source.captions), count)))
    text = TextTokenizer.from_file(path)
    if not config.text.cut_captions:
        model_config = make_model_config(config, image_tokenizer, weights, text.vocab_size)
        check_captions(source, text, model_config.max_prompt_tokens)
    return path


def _find_words(config: DenoiserRunConfig, cache: TokenCache) -> list[str]:
    """Return the words of the captions, and those of the model that training starts from."""
    earlier = load_words(config.start_from) if config.start_from else frozenset()
    return sorted(earlier.union(caption_words(cache.captions)))


def _make_model(
    config: DenoiserRunConfig,
    model_config: DenoiserConfig,
    image_tokenizer: ImageTokenizer,
    counts: torch.Tensor,
) -> Denoiser:
    """Return the denoiser with random weights or those of `start_from`, compiled if the configuration says so."""
    shapes = outline(lambda: Denoiser(model_config))
    state = _find_start(shapes, config, image_tokenizer) if config.start_from else None
    check_room(shapes, find_device(config.loop.device))
    model = Denoiser(model_config)
    if state:
        model.load_state_dict(state)
    else:
        generator = stream(config.seed, "weights")
        model.init_weights(generator)
        init_codes(model, codebook_of(image_tokenizer), generator)
    if config.code_network:
        _condition_on_codebook(model, config.code_network, config, codebook_of(image_tokenizer), counts)
    if config.compile:
        check_compiler(find_device(config.loop.device))
        compile_layers(model)
    return model


def _find_start(
    shapes: dict[str, tuple[int, ...]], config: DenoiserRunConfig, image_tokenizer: ImageTokenizer
) -> dict[str, torch.Tensor]:
    """Return the weights of `start_from`, a model of the same shape and the same codes.

    If it lacks the convolution over the prompt, the convolution starts at zero, where it has no effect.
    """
    folder = str(config.start_from)
    if fingerprint(load_image_tokenizer(folder)) != fingerprint(image_tokenizer):
        raise SmaltiError(
            f"start_from: {folder} must have the image tokenizer of tokenizer: {config.tokenizer}"
        )
    start = load_config(folder)
    found = outline(lambda: Denoiser(start))
    lacking = [name for name in shapes if name.startswith("prompt_convolution.") and name not in found]
    check_start(shapes, found | {name: shapes[name] for name in lacking}, folder)
    state = load_denoiser(folder).state_dict()
    return {**state, **{name: torch.zeros(shapes[name]) for name in lacking}}


def _condition_on_codebook(
    model: Denoiser, width: int, config: DenoiserRunConfig, codebook: torch.Tensor, counts: torch.Tensor
) -> None:
    """Condition embedding and head on the codebook, and fit their networks to the tables of `start_from`, if any."""
    modules = (model.gen_embedding, model.gen_predictor)
    networks = add_codebook_conditioning(model, codebook, width, stream(config.seed, "code_network"))
    for module, network in zip(modules, networks, strict=True):
        table = module.get_parameter("parametrizations.weight.original").detach()
        if not config.start_from:
            table[: len(codebook)] = 0
        elif not latest_checkpoint(Path(config.output)):
            device = find_device(config.loop.device)
            fitted = table.to(device)
            network.to(device).fit(fitted, counts.to(device))
            table.copy_(fitted)
            network.cpu()
