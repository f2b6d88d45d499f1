"""The `adapter` section of a denoiser's training configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from smalti.common.checks import quoted
from smalti.common.strict import Strict, Text
from smalti.model.lora import LARGEST_ALPHA, LARGEST_RANK, LINEARS, AdapterShape
from smalti.model.words import caption_words


class AdapterConfig(Strict):
    """Low-rank updates that are trained in place of the model, whose weights are frozen."""

    kind: Literal["lora", "rslora", "dora"] = Field("lora", description="lora, rslora or dora")
    rank: int = Field(16, ge=1, le=LARGEST_RANK, description="rank of the updates")
    alpha: float | None = Field(
        None,
        gt=0,
        le=LARGEST_ALPHA,
        description="factor of the updates is alpha / rank, for rslora alpha / √rank; null means rank",
    )
    targets: list[str] = Field(
        list(LINEARS), description="matrices that are adapted: those of the layers, downsample, head"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="probability that an update's input is dropped")
    quantize: Literal["int8", "int4", "fp8"] | None = Field(
        None,
        description="int8, int4 or fp8 stores the frozen layers in fewer bits; int8 and int4 need torchao",
    )
    new_words: list[Text] = Field(
        [],
        description="words of what is new: images whose caption has none of them, or is dropped, keep the frozen "
        "model's predictions instead of learning their tokens; none: every image is learned",
    )
    keep_weight: float = Field(1.0, ge=0, description="weight of those images' loss; needs new_words")

    @field_validator("targets")
    @classmethod
    def _are_known(cls, targets: list[str]) -> list[str]:
        AdapterShape(targets=tuple(targets))
        return targets

    @field_validator("new_words")
    @classmethod
    def _are_words(cls, words: list[str]) -> list[str]:
        for word in words:
            if caption_words([word]) != [word]:
                raise ValueError(f"must hold single words in lower case, not {quoted(word)}")
        return words

    @property
    def shape(self) -> AdapterShape:
        """Kind and size of the updates."""
        alpha = float(self.rank) if self.alpha is None else self.alpha
        return AdapterShape(self.kind, self.rank, alpha, tuple(self.targets), self.dropout)
