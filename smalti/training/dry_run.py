"""Everything up to the first step of a training, checked without encoding images and without leaving a file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from smalti.common.devices import find_device
from smalti.data.config import ShardsConfig
from smalti.data.sources import Source
from smalti.data.tar_index import index_path
from smalti.data.tars import find_tars
from smalti.data.tokens import METADATA, TokenShards
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.prompt import build_prompts
from smalti.model.text import TextTokenizer
from smalti.runtime.compiling import check_compiler
from smalti.storage.folder import NoInit
from smalti.training.caching import check_same_data, make_cache
from smalti.training.config import DenoiserRunConfig, RunConfig, TokenizerRunConfig
from smalti.training.data_config import CacheConfig
from smalti.training.distribution import size
from smalti.training.held_out import find_source
from smalti.training.launching import check_gpus, under_torchrun
from smalti.training.preparing import check_folder_captions
from smalti.training.reading import name_key
from smalti.training.reporting import check_places
from smalti.training.resuming import alone_in, check_resume
from smalti.training.shape import Basics, check_basics, model_config_for
from smalti.training.starting import check_start
from smalti.training.state import latest_checkpoint, read_state
from smalti.training.tokenizer import TokenizerTask


def dry_run(config: RunConfig) -> str:
    """Check a training up to its first step, and return a line that says what it would do.

    Raises:
        SmaltiError: something is wrong; the message names it.
    """
    if under_torchrun():
        raise SmaltiError("--dry-run checks one process: leave out torchrun, and set loop.processes")
    _check_processes(config)
    with alone_in(Path(config.output)):
        check_resume(config)
        check_places(config.loop.log_to)
        found = _check_denoiser(config) if isinstance(config, DenoiserRunConfig) else _check_tokenizer(config)
        checkpoint = latest_checkpoint(Path(config.output))
        done = read_state(checkpoint)["step"] if checkpoint else 0
    loop = config.loop
    where = f"from step {done}" if done else "from the start"
    return (
        f"ready: {max(0, loop.steps - done):,} steps of {loop.images:,} images {where}, "
        f"{loop.processes} × {loop.device}; {found}"
    )


def _check_processes(config: RunConfig) -> None:
    """Raise SmaltiError unless the processes are there and the model can be divided over them."""
    count, distribution = config.loop.processes, config.distribution
    assert size() == 1
    device = find_device(config.loop.device)
    if device.type == "cuda":
        check_gpus(count)
    if distribution.strategy == "fsdp" and count == 1:
        raise SmaltiError("distribution.strategy=fsdp needs torchrun or loop.processes=2 or more")
    if distribution.replicas > 1 and (distribution.strategy != "fsdp" or count % distribution.replicas):
        raise SmaltiError(
            f"distribution.replicas needs distribution.strategy=fsdp and must divide loop.processes, {count}"
        )


def _check_denoiser(config: DenoiserRunConfig) -> str:
    """Check a denoiser's training, and return what is left to encode."""
    with tempfile.TemporaryDirectory(prefix="smalti-") as folder:
        scratch = _writing_to(config, folder)
        basics = check_basics(scratch)
        with name_key("validation"):
            find_source(config)
        path = check_folder_captions(scratch, basics)
        if config.kept_from:
            path = config.kept_from / "tokenizer.json"
        if path is not None:
            _check_text(config, basics, TextTokenizer.from_file(path))
        if config.compile:
            check_compiler(find_device(config.loop.device))
        source, tokenizer, cache = basics.source, basics.image_tokenizer, config.cache
        check_same_data(config, source, tokenizer, basics.second)
        if cache is None or isinstance(source, TokenShards):
            make_cache(config, source, tokenizer, basics.second)
            return f"{images_of(source):,} images are token shards"
        count = cache.samples or images_of(source)
        if (Path(cache.path) / METADATA).exists():
            make_cache(config, source, tokenizer)
            return f"{count:,} images are in {cache.path}"
    of = f" of {images_of(source):,}" if images_of(source) else ""
    return f"{count:,} images{of} will be encoded into {cache.path} first"


def images_of(source: Source | TokenShards) -> int:
    """Return the number of a source's images, 0 for an endless one."""
    return len(source) if isinstance(source, TokenShards) else source.length or 0


def _writing_to(config: DenoiserRunConfig, folder: str) -> DenoiserRunConfig:
    """Return a configuration whose text tokenizer and indexes of tars are written to a folder that does not stay."""
    changes: dict[str, object] = {
        "cache": CacheConfig(path=folder, samples=config.cache and config.cache.samples)
    }
    data = config.data
    if isinstance(data, ShardsConfig):
        index = Path(data.index) if data.index else None
        tars = find_tars(Path(data.path)) if Path(data.path).is_dir() else []
        paths = [index_path(tar, Path(data.path), index) for tar in tars]
        if not all(path.exists() for path in paths):
            changes["data"] = data.model_copy(update={"index": folder})
    return config.model_copy(update=changes)


def _check_text(config: DenoiserRunConfig, basics: Basics, text: TextTokenizer) -> None:
    """Check what depends on the text tokenizer: the weights to start from, and the prompts of the previews."""
    shape, side = model_config_for(config, basics, text.vocab_size), config.data.size
    if config.start_from:
        with torch.device("meta"), NoInit():
            model = Denoiser(shape)
        check_start(model, config, basics.image_tokenizer)
    with name_key("preview_prompts"):
        slots = shape.slots(*basics.grid)
        build_prompts(config.preview_prompts, shape.prompt, text, height=side, width=side, slots=slots)


def _check_tokenizer(config: RunConfig) -> str:
    """Check a tokenizer's training, and return what it would train."""
    assert isinstance(config, TokenizerRunConfig)
    task = TokenizerTask(config)
    return f"{sum(parameter.numel() for parameter in task.model.parameters()):,} parameters"
