"""Training configurations: YAML files checked by pydantic, with `key=value` overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from smalti.errors import SmaltiError


class Strict(BaseModel):
    """A section of a configuration; keys that it does not know are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Strict):
    """Where pictures come from: scenes drawn on the fly, or a folder of captioned pictures."""

    kind: Literal["scenes", "folder"] = "scenes"
    path: str | None = Field(None, description="the folder, for kind: folder")
    size: int = Field(256, ge=16, le=4096, description="side in pixels")
    seed: int = Field(0, description="which scenes")
    lattice: int | None = Field(
        None,
        description="scenes that are easier to learn, with boxes on a lattice (see smalti.worlds.scenes.world)",
    )
    lattice_share: float = Field(1.0, ge=0, le=1, description="of the scenes; the others have none")
    extra_shapes: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of shapes that are one of forty more (smalti.worlds.scenes.extra_shapes)",
    )
    halves: float = Field(
        0.0, ge=0, le=1, description="share of coloured objects with two colours, half and half"
    )
    blobs: float = Field(
        0.0, ge=0, le=1, description="share of scenes of several things that are blobs of one outline instead"
    )
    named: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the captions that could leave colours open that say them all the same",
    )
    mix: dict[str, NonNegativeFloat] | None = Field(
        None, description="weight of each kind of scene; None is smalti.worlds.scenes.world.TRAINING_MIX"
    )


class OptimizerConfig(Strict):
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = Field(3e-4, gt=0)
    final_fraction: float = Field(0.02, ge=0, le=1, description="learning rate at the end over its peak")
    warmup_steps: int = Field(200, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.01, ge=0, description="on matrices only")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(0.999, ge=0, lt=1)


class LoopConfig(Strict):
    """Length of a run and what it leaves behind."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    accumulate: int = Field(1, ge=1, description="batches whose gradients are added up before a step")
    processes: int = Field(
        1, ge=1, description="that share the accumulated batches: of a CPU's cores, or one a GPU"
    )
    precision: Literal["auto", "bf16", "float32"] = "auto"
    device: str = "cpu"
    log_every: int = Field(20, ge=1)
    preview_every: int = Field(1000, ge=1, description="steps between sample grids")
    checkpoint_every: int = Field(500, ge=1)

    @field_validator("processes")
    @classmethod
    def _divides(cls, processes: int, info: ValidationInfo) -> int:
        if info.data.get("accumulate", 1) % processes:
            raise ValueError(f"must divide loop.accumulate ({info.data['accumulate']})")
        return processes


class RunConfig(Strict):
    """What every training has."""

    output: str = Field(description="folder of the run: log, previews, checkpoints, model")
    seed: int = 0
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loop: LoopConfig


class DiscriminatorConfig(Strict):
    """Patch discriminator with hinge loss (arXiv 2012.09841, section 3.1)."""

    start_step: int = Field(ge=0, description="steps of plain reconstruction before it joins")
    weight: float = Field(0.05, gt=0)
    channels: int = Field(32, ge=1)


class TokenizerLossConfig(Strict):
    """Weights of the terms of the tokenizer's loss."""

    l1: float = Field(1.0, ge=0)
    l2: float = Field(2.0, ge=0)
    gradient: float = Field(
        1.0, ge=0, description="L1 between differences of neighbouring pixels: sharp edges"
    )
    commitment: float = Field(0.25, ge=0)
    entropy: float = Field(0.02, ge=0, description="sure positions, all codes in use")
    quantize_after: int = Field(0, ge=0, description="steps without codes; the codes then start from k-means")
    temperature: float = Field(0.07, gt=0, description="of the softmax over the codebook")
    discriminator: DiscriminatorConfig | None = None


class TokenizerRunConfig(RunConfig):
    """`smalti train-tokenizer`."""

    start_from: str | None = Field(
        None, description="folder of an image tokenizer, or of a model that has one, to go on from"
    )
    decoder_only: bool = Field(
        False,
        description="pictures keep their tokens, and models of them stay what they are; needs start_from",
    )
    code_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of codes that the decoder sees another of in their place, one that looks alike, as "
        "where a denoiser erred; with decoder_only",
    )
    crop: PositiveInt | None = Field(
        None,
        description="side in pixels: of every picture the busiest of some random parts of that size is trained on, so "
        "that plain areas take less of the time",
    )
    model: dict[str, Any] = Field(description="fields of the tokenizer's config.json")
    loss: TokenizerLossConfig = TokenizerLossConfig()


class DraftsConfig(Strict):
    """Self-correction: masks that the model fills itself in training, and learns to revise."""

    share: float = Field(0.5, gt=0, le=1, description="pictures that are drafted")
    passes: int = Field(1, ge=1, le=4, description="of the denoiser that make a draft")
    start_step: int = Field(1000, ge=0, description="steps before: a beginner's drafts are noise")


class ObjectiveConfig(Strict):
    """Corruption and loss of denoiser training (docs/format.md, section 7)."""

    flip_ratio: float = Field(0.2, ge=0, le=1, description="share of visible tokens replaced by wrong ones")
    mask_power: float = Field(
        1.0, gt=0, description="k of the mask ratio cos(π/2 · uᵏ); above 1 the ratio is high more often"
    )
    ordered: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of pictures of which the first tokens of the sampling order are visible, as in sampling; "
        "for model.sampling.order halton or stratified",
    )
    rare_first: float = Field(
        0.0, ge=0, le=1, description="share of pictures whose rare codes are masked first, plain areas last"
    )
    boxes: float = Field(
        0.0, ge=0, le=1, description="share of pictures of which a box is masked, as edits and inpainting do"
    )
    edit_loss_weight: float = Field(0.2, ge=0, description="weight of the loss on visible tokens")
    group_weights: dict[PositiveInt, NonNegativeFloat] | None = Field(
        None,
        description="grouped cross-entropy: number of groups to weight; None is what start_from has, else none",
    )
    focus: float = Field(0.0, ge=0, description="γ of a factor (1 − p)^γ on every token's loss")
    prompt_drop_rate: float = Field(0.1, ge=0, le=1, description="prompts dropped, for guidance")
    drafts: DraftsConfig | None = None


class CacheConfig(Strict):
    """Pictures encoded once, before training starts, and kept in a folder."""

    path: str
    samples: int = Field(ge=1)


class TextConfig(Strict):
    """The text tokenizer, trained on the captions of the data when the run starts."""

    vocab_size: int = Field(512, ge=300)
    captions: int = Field(20000, ge=1)


class DenoiserRunConfig(RunConfig):
    """`smalti train`."""

    tokenizer: str = Field(description="folder of a trained image tokenizer, or of a model that has one")
    start_from: str | None = Field(None, description="model folder to fine-tune; None trains from nothing")
    model: dict[str, Any] = Field(description="fields of the model's config.json")
    code_network: int | None = Field(
        None,
        ge=1,
        description="width of networks that make the codes' vectors of their entries in the codebook, so that codes "
        "that look alike share what is learned; written to the model as tables. None gives every code rows of its own",
    )
    compile: bool = Field(
        False, description="the layers, by torch.compile, which takes a minute when training starts"
    )
    objective: ObjectiveConfig = ObjectiveConfig()
    cache: CacheConfig
    text: TextConfig = TextConfig()
    preview_prompts: list[str] = ["a red circle", "a blue square above a green star"]


def check_model_keys(model: dict[str, Any], known: set[str]) -> None:
    """Raise SmaltiError if the `model` section of a configuration names a field that a model does not have."""
    unknown = sorted(set(model) - known)
    if unknown:
        raise SmaltiError(f"unknown key model.{unknown[0]}; known here: {', '.join(sorted(known))}")


ConfigT = TypeVar("ConfigT", bound=RunConfig)


def load_config(kind: type[ConfigT], path: str | Path, overrides: list[str] | None = None) -> ConfigT:
    """Read a YAML configuration and apply `section.key=value` overrides, whose values are YAML too.

    Raises:
        SmaltiError: the file is missing or not YAML, a key is unknown, a value has the wrong type or range. The
            message names the key.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SmaltiError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SmaltiError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise SmaltiError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise SmaltiError(f"{path} must hold keys and values, not {type(values).__name__}")
    for override in overrides or []:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            section = _section(kind, first["loc"][:-1])
            known = f"; known here: {', '.join(section.model_fields)}" if section else ""
            raise SmaltiError(f"{path}: unknown key {key}{known}") from error
        raise SmaltiError(f"{path}: {key}: {first['msg'].lower()}, not {first.get('input')!r}") from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SmaltiError(f"override must be key=value, not {override!r}")
    *sections, last = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise SmaltiError(f"override {override!r}: {section} is a value, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SmaltiError(f"override {override!r}: the value is not YAML") from error
    if isinstance(values[last], str):
        # YAML 1.1 reads 1e-3 as text; a person means the number.
        try:
            values[last] = float(values[last])
        except ValueError:
            pass


def _section(kind: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel] | None:
    """The section of a configuration that `path` leads to, if it is one."""
    for part in path:
        field = kind.model_fields.get(str(part))
        options = [field.annotation, *getattr(field.annotation, "__args__", ())] if field else []
        found = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not found:
            return None
        kind = found[0]
    return kind
