"""The sections of training configurations, checked by pydantic. `smalti.training.reading` reads them from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, ValidationInfo, field_validator

from smalti.common.strict import Seed, Strict, Text
from smalti.data.config import DataConfig
from smalti.objective.masking import Mixture
from smalti.runtime.memory import parse_memory
from smalti.training.adapter_config import AdapterConfig
from smalti.training.data_config import (
    CacheConfig,
    ProcessesConfig,
    RegularizationConfig,
    TextConfig,
    ValidationConfig,
)
from smalti.worlds.scenes.config import ScenesConfig

Decay = Annotated[float, Field(ge=0, lt=1)]

# Largest numbers, far beyond those of known trainings: a slip of a key must not cost days or all memory.
_MOST_STEPS = 10**9
_MOST_BATCH = 2**16
_MOST_ACCUMULATED = 2**20
_WIDEST = 2**16
_ENDLESS = ("scenes", "objects")


class OptimizerConfig(Strict):
    """AdamW or Muon, with linear warm-up and cosine decay."""

    kind: Literal["adamw", "adamw8bit", "muon"] = Field(
        "adamw",
        description="adamw8bit keeps both moments in 8 bits, which needs torchao; muon makes the updates of the "
        "layers' matrices orthogonal, which needs whole matrices on each process",
    )
    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate")
    embedding_factor: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="factor of the learning rate of embeddings, whose rows are rarely seen",
    )
    final_fraction: float = Field(
        0.02, ge=0, le=1, description="final learning rate as a fraction of the peak"
    )
    warmup_steps: int = Field(200, ge=0, le=_MOST_STEPS, description="steps until the peak")
    betas: tuple[Decay, Decay] = Field((0.9, 0.95), description="decay of the two moments")
    weight_decay: float = Field(0.01, ge=0, description="decay of matrices; other parameters have none")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema_decay: Decay = Field(
        0.999, description="decay of the moving average of the weights; 0 keeps no average"
    )


class LoopConfig(ProcessesConfig):
    """Length of a run, how it is computed, and what it leaves behind."""

    steps: int = Field(ge=1, le=_MOST_STEPS, description="optimizer steps")
    batch_size: int = Field(ge=1, le=_MOST_BATCH, description="most images that a process computes at once")
    accumulate: int = Field(
        1, ge=1, le=_MOST_ACCUMULATED, description="a step has batch_size · accumulate images"
    )
    precision: Literal["auto", "bf16", "float32"] = Field("auto", description="dtype of matrix products")
    weights: Literal["float32", "bfloat16"] = Field("float32", description="dtype of the trained weights")
    recompute: int = Field(
        0,
        ge=0,
        description="k: every k-th layer keeps its input alone and is computed again for its gradient; 0 keeps all",
    )
    memory: Text | None = Field(
        None,
        description="most memory of the device that the training may need, such as 24GB; null: what is free",
    )
    log_every: int = Field(20, ge=1, description="steps between log entries")
    log_to: list[Literal["tensorboard", "wandb"]] = Field([], description="further places for log entries")
    preview_every: int = Field(1000, ge=1, description="steps between sample grids")
    checkpoint_every: int = Field(500, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(1, ge=1, description="number of checkpoints that are kept")
    async_checkpoints: bool = Field(
        False, description="whether checkpoints are written while training goes on"
    )

    @property
    def images(self) -> int:
        """Return the number of images of a step."""
        return self.batch_size * self.accumulate

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, memory: str | None) -> str | None:
        if memory is not None:
            parse_memory(memory)
        return memory


class DistributionConfig(Strict):
    """How several processes hold the model."""

    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="ddp copies the model to every process; fsdp shards weights, gradients and optimizer (FSDP2)",
    )
    replicas: int = Field(
        1, ge=1, description="number of groups of processes that each hold all shards, for fsdp (HSDP)"
    )


class RunConfig(Strict):
    """The sections that every training has."""

    output: Text = Field(description="folder of the run: log, previews, checkpoints, model")
    seed: Seed = Field(0, description="seed of every random draw of the training")
    data: DataConfig = ScenesConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    distribution: DistributionConfig = DistributionConfig()
    loop: LoopConfig

    @field_validator("distribution")
    @classmethod
    def _has_whole_matrices(
        cls, distribution: DistributionConfig, info: ValidationInfo
    ) -> DistributionConfig:
        if distribution.strategy == "fsdp" and getattr(info.data.get("optimizer"), "kind", "") == "muon":
            raise ValueError("must have strategy ddp for optimizer.kind muon, which needs whole matrices")
        return distribution


class DiscriminatorConfig(Strict):
    """Patch discriminator with hinge loss (arXiv 2012.09841, section 3.1)."""

    start_step: int = Field(
        ge=0, description="first step that uses it; earlier steps train reconstruction alone"
    )
    weight: float = Field(0.05, gt=0, description="weight of its term in the tokenizer's loss")
    channels: int = Field(32, ge=1, le=_WIDEST, description="channels of its first layer")


class TokenizerLossConfig(Strict):
    """Weights of the terms of the tokenizer's loss."""

    l1: float = Field(1.0, ge=0, description="weight of the absolute error")
    l2: float = Field(2.0, ge=0, description="weight of the squared error")
    gradient: float = Field(
        1.0, ge=0, description="weight of the absolute error between differences of neighbouring pixels"
    )
    commitment: float = Field(0.25, ge=0, description="weight of the distance between features and codes")
    entropy: float = Field(
        0.02, ge=0, description="weight of the term that rewards clear choices and the use of all codes"
    )
    quantize_after: int = Field(
        0, ge=0, description="steps without quantization; k-means over features then initialises the codes"
    )
    temperature: float = Field(0.07, gt=0, description="temperature of the softmax over the codebook")
    discriminator: DiscriminatorConfig | None = None


class TokenizerRunConfig(RunConfig):
    """Configuration of `smalti train-tokenizer`."""

    start_from: Text | None = Field(
        None,
        description="folder of an image tokenizer, or of a model that has one; null starts from random weights",
    )
    decoder_only: bool = Field(
        False,
        description="whether only the decoder learns, so that images keep their tokens; needs start_from",
    )
    code_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of tokens that are replaced by one of their nearest codes before decoding, to imitate a "
        "denoiser's errors; needs decoder_only",
    )
    crop: PositiveInt | None = Field(
        None,
        description="side in pixels of the training crop: the one with the strongest edges among a few random crops; "
        "null trains on whole images",
    )
    model: dict[str, Any] = Field(
        description="fields of the tokenizer's config.json, at least one; others have the reference model's values"
    )
    loss: TokenizerLossConfig = TokenizerLossConfig()

    @field_validator("model")
    @classmethod
    def _names_a_field(cls, model: dict[str, Any]) -> dict[str, Any]:
        # An empty section would be the reference model's tokenizer, which takes gigabytes, by oversight.
        if not model:
            raise ValueError("must have at least one field of the image tokenizer, such as ch")
        return model


class SelfGeneratedConfig(Strict):
    """Self-generated inputs: masks that the model fills itself and learns to revise."""

    share: float = Field(0.5, gt=0, le=1, description="share of images that get self-generated tokens")
    passes: int = Field(1, ge=1, le=4, description="passes of the denoiser per image")
    start_step: int = Field(
        1000, ge=0, description="first step that uses them; earlier samples would be noise"
    )


class ObjectiveConfig(Strict):
    """Corruption and loss of denoiser training (docs/format.md, section 7)."""

    masking: dict[str, NonNegativeFloat] = Field(
        {"uniform": 1.0}, description="share of images for each masking rule; the shares add up to 1"
    )
    flip_ratio: float = Field(0.2, ge=0, le=1, description="share of visible tokens replaced by wrong ones")
    edit_loss_weight: float = Field(0.2, ge=0, description="weight of the loss on visible tokens")
    group_weights: dict[PositiveInt, NonNegativeFloat] | None = Field(
        None,
        description="weight of each grouping of grouped cross-entropy, by its number of groups; null means the "
        "weights of start_from, or none",
    )
    focus: float = Field(0.0, ge=0, description="exponent γ of the factor (1 − p)^γ on every token's loss")
    subsampling: float = Field(
        0.0,
        ge=0,
        description="frequency t above which a code is common: its tokens count with probability √(t / frequency), "
        "and more; 0 counts every token",
    )
    prompt_drop_rate: float = Field(0.1, ge=0, le=1, description="share of prompts dropped, for guidance")
    self_generated: SelfGeneratedConfig | None = None

    @field_validator("masking")
    @classmethod
    def _adds_up(cls, shares: dict[str, float]) -> dict[str, float]:
        Mixture.parse(shares)
        return shares


class DenoiserRunConfig(RunConfig):
    """Configuration of `smalti train`."""

    tokenizer: Text = Field(description="folder of a trained image tokenizer, or of a model that has one")
    start_from: Text | None = Field(
        None, description="model folder to fine-tune; null starts from random weights"
    )
    match_tokenizers: bool = Field(
        False,
        description="whether start_from may have other tokenizers: its codes are matched by their pixels, its text "
        "ids by their spelling",
    )
    model: dict[str, Any] = Field(description="fields of the model's config.json")
    adapter: AdapterConfig | None = Field(
        None, description="low-rank updates of start_from that are trained alone; null trains the whole model"
    )
    code_network: int | None = Field(
        None,
        ge=1,
        le=_WIDEST,
        description="width of the codebook-conditioned embedding and head, whose networks similar codes share; null "
        "trains plain tables. The exported model holds plain tables",
    )
    compile: bool = Field(
        False, description="whether the layers are compiled, which takes a minute when training starts"
    )
    objective: ObjectiveConfig = ObjectiveConfig()
    cache: CacheConfig | None = Field(
        None, validate_default=True, description="token cache; data of kind tokens need none"
    )
    regularization: RegularizationConfig | None = Field(
        None, description="second set of images, of what the model should not forget; not for worlds"
    )
    text: TextConfig = TextConfig()
    validation: ValidationConfig = ValidationConfig()
    preview_prompts: list[Text] = Field(
        ["a red circle", "a blue square above a green star"],
        min_length=1,
        description="prompts of the sample grids",
    )

    @property
    def kept_from(self) -> Path | None:
        """Folder of the model whose tokenizers are kept; None if there is none, or if others are matched with them."""
        return Path(self.start_from) if self.start_from and not self.match_tokenizers else None

    @property
    def side_folder(self) -> Path:
        """Folder of the text tokenizer and the groups: the cache's, or `output` without a cache."""
        return Path(self.cache.path if self.cache else self.output)

    @field_validator("cache")
    @classmethod
    def _is_there(cls, cache: CacheConfig | None, info: ValidationInfo) -> CacheConfig | None:
        kind = getattr(info.data.get("data"), "kind", "tokens")
        if cache is None and kind != "tokens":
            raise ValueError(f"must have a path for data of kind {kind}")
        if cache is not None and cache.samples is None and kind in _ENDLESS:
            raise ValueError(f"must have samples for data of kind {kind}, which are endless")
        return cache

    @field_validator("regularization")
    @classmethod
    def _has_files(
        cls, regularization: RegularizationConfig | None, info: ValidationInfo
    ) -> RegularizationConfig | None:
        if regularization is not None and getattr(info.data.get("data"), "kind", "folder") in _ENDLESS:
            raise ValueError("needs data of kind folder, shards or tokens")
        return regularization

    @field_validator("adapter")
    @classmethod
    def _has_a_base(cls, adapter: AdapterConfig | None, info: ValidationInfo) -> AdapterConfig | None:
        if adapter is not None and info.data.get("start_from", "") is None:
            raise ValueError("needs start_from, the model that is adapted")
        return adapter

    @field_validator("match_tokenizers")
    @classmethod
    def _has_a_start(cls, match: bool, info: ValidationInfo) -> bool:
        if match and info.data.get("start_from", "") is None:
            raise ValueError("needs start_from, the model whose tokenizers are other ones")
        return match

    @field_validator("adapter")
    @classmethod
    def _keeps_the_tokenizers(
        cls, adapter: AdapterConfig | None, info: ValidationInfo
    ) -> AdapterConfig | None:
        if adapter is not None and info.data.get("match_tokenizers"):
            raise ValueError("must be null with match_tokenizers, which writes the tables anew")
        return adapter

    @field_validator("code_network")
    @classmethod
    def _trains_the_tables(cls, width: int | None, info: ValidationInfo) -> int | None:
        if width is not None and info.data.get("adapter") is not None:
            raise ValueError("must be null with an adapter, which leaves the tables as they are")
        return width
