"""Prepare a denoiser's training: read, encode, train or build its parts from a configuration."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path

import torch

from smalti.common.devices import find_device
from smalti.common.files import make_folder
from smalti.common.randomness import stream
from smalti.data.folder import ImageFolder
from smalti.data.tokens import TokenShards
from smalti.model.config import DenoiserConfig
from smalti.model.denoiser import Denoiser
from smalti.model.text import TextTokenizer
from smalti.model.words import caption_words
from smalti.objective.masking import Mixture
from smalti.runtime.compiling import check_compiler, compile_layers
from smalti.storage.folder import NoInit, load_words
from smalti.training.adapting import adapted_denoiser
from smalti.training.caching import TrainingTokens, check_same_data, count_codes, make_cache
from smalti.training.captions import check_captions, find_text_tokenizer
from smalti.training.codes import add_codebook_conditioning
from smalti.training.config import DenoiserRunConfig
from smalti.training.distribution import first_alone
from smalti.training.keeping import check_words
from smalti.training.shape import Basics, check_basics, model_config_for
from smalti.training.starting import check_start, own_tables, starting_weights
from smalti.training.state import latest_checkpoint
from smalti.vq.groups import CodeGroups, file_name
from smalti.vq.tokenizer import ImageTokenizer

_MOST_CAPTIONS = 2**20  # whose words are kept beside the model


@dataclasses.dataclass(frozen=True, eq=False)
class DenoiserParts:
    """The parts of a denoiser's training.

    Attributes:
        image_tokenizer: the trained image tokenizer, on the CPU.
        text: the text tokenizer.
        text_json: content of its tokenizer.json.
        tokens: the training images as tokens, with captions.
        counts: (V,) int64, occurrences of each code in them.
        grid: height and width of the token grid.
        masking: the mixture of masking rules.
        group_weights: weight of each grouping of grouped cross-entropy, by its number of groups.
        groups: the groupings, in the order of `group_weights`.
        model_config: configuration of the denoiser.
        model: the denoiser with its starting weights, on the CPU, or without weights on the meta device.
        weights: function that returns the starting weights by name, if the model is on the meta device, else None.
        words: words of all captions that this model and its predecessors were trained on.
    """

    image_tokenizer: ImageTokenizer
    text: TextTokenizer
    text_json: str
    tokens: TrainingTokens
    counts: torch.Tensor
    grid: tuple[int, int]
    masking: Mixture
    group_weights: dict[int, float]
    groups: list[CodeGroups]
    model_config: DenoiserConfig
    model: Denoiser
    weights: Callable[[], Iterator[tuple[str, torch.Tensor]]] | None
    words: list[str]


def prepare(config: DenoiserRunConfig) -> DenoiserParts:
    """Return the parts of the training that a configuration describes.

    Raises:
        SmaltiError: parts are missing or damaged, or do not fit the configuration.
    """
    basics = check_basics(config)
    image_tokenizer, weights = basics.image_tokenizer, basics.group_weights
    check_same_data(config, basics.source, image_tokenizer, basics.second)
    with first_alone():
        early = check_folder_captions(config, basics)
    tokens = make_cache(config, basics.source, image_tokenizer, basics.second)
    with first_alone():
        groups = [_make_groups(config, image_tokenizer, number) for number in weights]
        text_path = early or find_text_tokenizer(config, tokens.images.all_captions())
    counts = count_codes(tokens.images)
    text = TextTokenizer.from_file(text_path)
    model_config = model_config_for(config, basics, text.vocab_size)
    for grid in {grid for shards in tokens.parts for grid in shards.grids}:
        basics.masking.check(*grid)
        model_config.slots(*grid)
    model, starting = _make_model(config, model_config, image_tokenizer, text, tokens, counts)
    return DenoiserParts(
        image_tokenizer=image_tokenizer,
        text=text,
        text_json=text_path.read_text(encoding="utf-8"),
        tokens=tokens,
        counts=counts,
        grid=basics.grid,
        masking=basics.masking,
        group_weights=weights,
        groups=groups,
        model_config=model_config,
        model=model,
        weights=starting,
        words=_find_words(config, tokens),
    )


def codebook_of(image_tokenizer: ImageTokenizer) -> torch.Tensor:
    """Return the codes of an image tokenizer, (V, C) float."""
    return image_tokenizer.quantize.embedding.weight.detach()


def _make_groups(config: DenoiserRunConfig, image_tokenizer: ImageTokenizer, number: int) -> CodeGroups:
    """Return a grouping into `number` groups, and keep it in the cache's folder."""
    path = config.side_folder / file_name("groups", number)
    codebook = codebook_of(image_tokenizer)
    if os.path.exists(path):
        return CodeGroups.load(path, codebook)
    groups = CodeGroups.from_kmeans(codebook, number, seed=config.seed)
    make_folder(path.parent)
    groups.save(path)
    return groups


def check_folder_captions(config: DenoiserRunConfig, basics: Basics) -> Path | None:
    """Check the captions of a folder before its images are encoded, and return the file of the text tokenizer.

    The text tokenizer is then trained on the captions as the cache will hold them. The result is None for other
    sources, whose captions come with their images.
    """
    source = basics.source
    # The captions of tars and worlds come with their images.
    sets = [one for one in (source, basics.second) if isinstance(one, ImageFolder | TokenShards)]
    if sets and config.adapter:
        captions = (one.all_captions() if isinstance(one, TokenShards) else one.captions for one in sets)
        check_words(config.adapter.new_words, chain.from_iterable(captions))
    if not isinstance(source, ImageFolder):
        return None
    # The cache repeats a small folder's images, and their captions with them.
    samples = config.cache.samples if config.cache and config.cache.samples else len(source.captions)
    path = find_text_tokenizer(config, islice(cycle(source.captions), samples))
    text = TextTokenizer.from_file(path)
    if not config.text.cut_captions:
        most = model_config_for(config, basics, text.vocab_size).max_prompt_tokens
        for one in sets:
            if isinstance(one, ImageFolder):
                check_captions(one, text, most)
    return path


def _find_words(config: DenoiserRunConfig, tokens: TrainingTokens) -> list[str]:
    """Return the words of the captions, and those of the model that training starts from.

    Words of very many captions say little, and there would be millions: then the result is empty.
    """
    if sum(shards.captions for shards in tokens.parts) > _MOST_CAPTIONS:
        return []
    earlier = load_words(config.kept_from) if config.kept_from else frozenset()
    found = (caption_words(shards.all_captions()) for shards in tokens.parts)
    return sorted(earlier.union(*found))


def _make_model(
    config: DenoiserRunConfig,
    model_config: DenoiserConfig,
    image_tokenizer: ImageTokenizer,
    text: TextTokenizer,
    tokens: TrainingTokens,
    counts: torch.Tensor,
) -> tuple[Denoiser, Callable[[], Iterator[tuple[str, torch.Tensor]]] | None]:
    """Return the denoiser, compiled if the configuration says so, and its starting weights if it has none yet.

    A model that is sharded starts on the meta device, unless networks must be fitted to its tables.
    """
    codebook = codebook_of(image_tokenizer)
    with torch.device("meta"), NoInit():
        model = Denoiser(model_config)
    if config.start_from:
        check_start(model, config, image_tokenizer)
    if config.adapter:
        model = adapted_denoiser(config)
        _finish_model(config, model)
        return model, None
    tables = own_tables(model, config, image_tokenizer, text, tokens.images)
    starting = partial(starting_weights, model, config.start_from, config.seed, codebook, tables)
    sharded = config.distribution.strategy == "fsdp" and not config.code_network
    if not sharded:
        model.to_empty(device="cpu")
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, values in starting():
                parameters[name].copy_(values)
    if config.code_network:
        _condition_on_codebook(model, config.code_network, config, codebook, counts)
    _finish_model(config, model)
    return model, starting if sharded else None


def _finish_model(config: DenoiserRunConfig, model: Denoiser) -> None:
    """Let layers be computed again for their gradients, and compile them, if the configuration says so."""
    model.recompute(config.loop.recompute)
    if config.compile:
        check_compiler(find_device(config.loop.device))
        # Layers are compiled one by one: to cut them where DistributedDataParallel's buckets end only costs time.
        torch._dynamo.config.optimize_ddp = False
        compile_layers(model)


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
