"""The denoiser's configuration: the fields of a model folder's `config.json`."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from smalti.common.checks import check_choice, check_real, check_whole, quoted
from smalti.errors import SmaltiError
from smalti.model.prompt import RELEASE_TEMPLATE, PromptTemplate

MODEL_TYPE = "nemotron_labs_diffusion_image"
ARCHITECTURE = "NemotronLabsDiffusionImageForMaskedDiffusion"
# Rows of the image-token embedding beyond the codebook; the mask is the second of them (docs/format.md, section 1).
EXTRA_CODES = 256

_LARGEST_THETA, _LARGEST_FACTOR, _LEAST_TURNS = 1e12, 1e6, 1e-6

# Largest sizes that are built, far beyond those of known models: a wrong file must not cost minutes or all memory.
_LARGEST = {
    "hidden_size": 2**17,
    "num_hidden_layers": 512,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**12,
    "intermediate_size": 2**20,
    "vocab_size": 2**24,
    "codebook_size": 2**24,
    "image_size": 2**16,
    "max_prompt_tokens": 2**20,
}
_LARGEST_OR_NONE = {"num_text_layers": 512, "prompt_convolution": 2**10}


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions (`rope_parameters` of `config.json`): plain, or YaRN (arXiv 2309.00071).

    Fields marked * are Smalti extensions.

    Attributes:
        rope_type: "default" or "yarn". Everything below `rope_theta` matters for YaRN only.
        rope_theta: base of the frequencies.
        factor: ratio of the longest sequence to the longest one of training.
        beta_fast: rotations over the original length above which a frequency stays as it is.
        beta_slow: rotations over the original length below which a frequency is divided by `factor`.
        mscale: numerator of YaRN's attention factor m(mscale) / m(mscale_all_dim), with m(s) = 0.1·s·ln(factor) + 1.
        mscale_all_dim: denominator of that factor.
        original_max_position_embeddings: length of the longest sequence in training.
        llama_4_scaling_beta: b in the factor 1 + b·ln(1 + ⌊position / original⌋) on queries (docs/format.md,
            section 3).
        map_side*: rows or columns of the largest map in training, in positions of the backbone; 0 for any map. Only
            axial positions read it.
        map_power*: power of side / `map_side` that multiplies `rope_theta` along a longer side of a map.
    """

    rope_type: str = "default"
    rope_theta: float = 10000.0
    factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 1.0
    original_max_position_embeddings: int = 16384
    llama_4_scaling_beta: float = 0.0
    map_side: int = 0
    map_power: float = 2.7

    def __post_init__(self) -> None:
        check_choice("rope_type", self.rope_type, ("default", "yarn"))
        check_whole("original_max_position_embeddings", self.original_max_position_embeddings, 1, 2**30)
        check_real("rope_theta", self.rope_theta, 1.0, _LARGEST_THETA, above=True)
        check_real("factor", self.factor, 1.0, _LARGEST_FACTOR)
        for name in ("beta_fast", "beta_slow"):
            # A frequency that turns no time at all has no logarithm.
            least = _LEAST_TURNS if self.rope_type == "yarn" else 0.0
            check_real(name, getattr(self, name), least, _LARGEST_FACTOR)
        for name in ("mscale", "mscale_all_dim", "llama_4_scaling_beta"):
            check_real(name, getattr(self, name), 0.0, _LARGEST_FACTOR)
        check_whole("map_side", self.map_side, 0, 2**16)
        check_real("map_power", self.map_power, 0.0, 16.0)

    def for_side(self, side: int) -> RopeConfig:
        """Return the rotary positions along a side of a map, in positions; these ones up to `map_side`.

        A larger base turns slower, so that a longer side spans the angles of training (NTK-aware scaling; for masked
        diffusion LongLLaDA, arXiv 2506.14429). One base an axis and the power law are Smalti's own.
        """
        if not self.map_side or side <= self.map_side:
            return self
        theta = self.rope_theta * (side / self.map_side) ** self.map_power
        return dataclasses.replace(self, rope_theta=min(theta, _LARGEST_THETA))

    @classmethod
    def from_dict(cls, values: Any) -> RopeConfig:
        """Read `rope_parameters`; unknown keys are ignored."""
        if not isinstance(values, dict):
            raise SmaltiError(f"rope_parameters must be an object, not {quoted(values)}")
        names = {entry.name for entry in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


# Switches of the reference model's config of which Smalti implements one position only.
_FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
    "dlm_paradigm": "bidirectional",
}


@dataclass(frozen=True)
class DenoiserConfig:
    """Shape of the denoiser. Fields have the reference model's names (docs/format.md, section 2).

    Fields marked * are Smalti extensions.

    Attributes:
        hidden_size: width D of hidden vectors and of image-token embeddings.
        num_hidden_layers: number of layers.
        num_attention_heads: number of query heads.
        num_key_value_heads: number of key and value heads, a divisor of `num_attention_heads`.
        head_dim: width of a head.
        intermediate_size: width of the feed-forward.
        vocab_size: number of text ids.
        codebook_size: number V of image codes. The reference model's `config.json` lacks it; then it comes from the
            image tokenizer's.
        rope: rotary positions.
        rms_norm_eps: epsilon of the backbone's norms.
        downsample: whether 2×2 image tokens share one position of the backbone.
        mask_token_id: *text* id whose embedding stands for a dropped prompt.
        eos_token_id: text id that ends a turn.
        mm_vqvae: folder of the image tokenizer, inside the model's folder.
        conditioning*: "sequence" (the prompt is in the sequence) or "cross_attention" (image positions attend
            to the encoded prompt).
        image_positions*: "raster" (index in the sequence) or "axial" (row and column).
        prompt_convolution*: width of a causal convolution over the prompt's embeddings, in tokens; 0 for none.
        num_text_layers*: depth of the prompt's encoder under "cross_attention".
        image_size*: default side of an image in pixels.
        max_prompt_tokens*: length of the longest prompt, in text ids.
        prompt*: prompt template.
        flip_ratio: fraction of visible tokens that training replaced by wrong ones.
        prompt_drop_rate: fraction of training images without a prompt.
        gen_edit_loss_weight: weight of visible tokens in the training loss.
        group_ce_weight: groups of grouped cross-entropy and their weights, such as "{16384:0.2}".
        sampling*: default sampling settings of this model, by the pipeline's argument names.
        presets*: settings of each preset, "fast", "balanced" or "quality".
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    codebook_size: int
    rope: RopeConfig = RopeConfig()
    rms_norm_eps: float = 1e-5
    downsample: bool = True
    mask_token_id: int = 100
    eos_token_id: int = 11
    mm_vqvae: str = "emu3_vqvae"
    conditioning: str = "sequence"
    image_positions: str = "raster"
    prompt_convolution: int = 0
    num_text_layers: int = 0
    image_size: int = 1024
    max_prompt_tokens: int = 2048
    prompt: PromptTemplate = RELEASE_TEMPLATE
    flip_ratio: float = 0.2
    prompt_drop_rate: float = 0.1
    gen_edit_loss_weight: float = 0.2
    group_ce_weight: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, largest in _LARGEST.items():
            check_whole(name, getattr(self, name), 1, largest)
        for name, largest in _LARGEST_OR_NONE.items():
            check_whole(name, getattr(self, name), 0, largest)
        for name in ("mask_token_id", "eos_token_id"):
            check_whole(name, getattr(self, name), 0, self.vocab_size - 1)
        if self.conditioning == "sequence":
            check_whole("prompt.slot_id", self.prompt.slot_id, 0, self.vocab_size - 1)
        check_real("rms_norm_eps", self.rms_norm_eps, 0.0, 1.0)
        check_real("flip_ratio", self.flip_ratio, 0.0, 1.0)
        check_real("prompt_drop_rate", self.prompt_drop_rate, 0.0, 1.0)
        check_real("gen_edit_loss_weight", self.gen_edit_loss_weight, 0.0)
        check_choice("conditioning", self.conditioning, ("sequence", "cross_attention"))
        check_choice("image_positions", self.image_positions, ("raster", "axial"))
        if not isinstance(self.downsample, bool):
            raise SmaltiError(f"downsample must be true or false, not {quoted(self.downsample)}")
        if not isinstance(self.mm_vqvae, str) or not self.mm_vqvae:
            raise SmaltiError(f"mm_vqvae must name the image tokenizer's folder, not {quoted(self.mm_vqvae)}")
        parse_group_weights(self.group_ce_weight)
        if not isinstance(self.sampling, dict):
            raise SmaltiError(f"sampling must be an object, not {quoted(self.sampling)}")
        presets = self.presets
        if not isinstance(presets, dict) or not all(isinstance(entry, dict) for entry in presets.values()):
            raise SmaltiError(f"presets must be an object of objects, not {quoted(presets)}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise SmaltiError(
                f"num_key_value_heads must divide num_attention_heads {self.num_attention_heads}, "
                f"not {self.num_key_value_heads}"
            )
        pairs = 4 if self.image_positions == "axial" else 2
        if self.head_dim % pairs:
            raise SmaltiError(
                f"head_dim must be a multiple of {pairs} for {self.image_positions} positions, "
                f"not {self.head_dim}"
            )
        if self.conditioning == "sequence" and self.num_text_layers:
            raise SmaltiError(
                f"num_text_layers must be 0 for conditioning 'sequence', not {self.num_text_layers}"
            )
        # Two fields of the template come from the folder.
        template = dataclasses.replace(
            self.prompt, unconditional_id=self.mask_token_id, max_prompt_tokens=self.max_prompt_tokens
        )
        object.__setattr__(self, "prompt", template)

    @property
    def group_weights(self) -> dict[int, float]:
        """Weight of each grouped term by its number of groups, from `group_ce_weight`."""
        return parse_group_weights(self.group_ce_weight)

    @property
    def mask_code(self) -> int:
        """Image-token id of the mask: row codebook_size + 1 of the image-token embedding."""
        return self.codebook_size + 1

    @property
    def cell(self) -> int:
        """Side, in tokens, of the block that shares one position of the backbone: 2 with `downsample`, else 1."""
        return 2 if self.downsample else 1

    def slots(self, height: int, width: int) -> int:
        """Return the number of slots that a prompt reserves for a grid of height × width tokens.

        There are no slots under cross-attention.

        Raises:
            SmaltiError: the grid is empty, or cannot be divided into 2×2 blocks.
        """
        cells = self.positions(height, width)
        return cells[0] * cells[1] if self.conditioning == "sequence" else 0

    def positions(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of the backbone positions of a grid of height × width tokens.

        Raises:
            SmaltiError: the grid is empty, or cannot be divided into 2×2 blocks.
        """
        side = self.cell
        if height < 1 or width < 1 or height % side or width % side:
            raise SmaltiError(
                f"a grid's sides must be positive multiples of {side} tokens, not {height}×{width}"
            )
        return height // side, width // side

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DenoiserConfig:
        """Read a `config.json`; keys that Smalti does not use are ignored.

        Raises:
            SmaltiError: another model_type, a missing field, a wrong type or value, or a switch in a position that is
                not implemented.
        """
        if values.get("model_type") != MODEL_TYPE:
            raise SmaltiError(f"model_type must be {MODEL_TYPE!r}, not {quoted(values.get('model_type'))}")
        for name, expected in _FIXED.items():
            if values.get(name, expected) != expected:
                raise SmaltiError(f"{name} must be {expected!r}, not {quoted(values[name])}")
        if "d_model_gen" in values and values["d_model_gen"] != values.get("hidden_size"):
            raise SmaltiError(f"d_model_gen must equal hidden_size, not {quoted(values['d_model_gen'])}")
        names = {entry.name for entry in dataclasses.fields(cls)} - {"rope", "prompt"}
        known = {name: value for name, value in values.items() if name in names}
        required = [
            entry.name
            for entry in dataclasses.fields(cls)
            if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        ]
        missing = [name for name in [*required, "rope_parameters"] if name not in values]
        if missing:
            raise SmaltiError(f"config.json lacks {', '.join(missing)}")
        known["rope"] = RopeConfig.from_dict(values["rope_parameters"])
        if values.get("prompt") is not None:
            known["prompt"] = PromptTemplate.from_dict(values["prompt"])
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return the `config.json` of this model; `from_dict` reads it back to an equal config."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        rope = values.pop("rope")
        template = values.pop("prompt")
        values["rope_parameters"] = dataclasses.asdict(rope)
        if template.to_dict() != RELEASE_TEMPLATE.to_dict():
            values["prompt"] = template.to_dict()
        return {
            "architectures": [ARCHITECTURE],
            "model_type": MODEL_TYPE,
            "dlm_paradigm": "bidirectional",
            **values,
        }


def parse_group_weights(text: str | None) -> dict[int, float]:
    """Read `group_ce_weight`, such as "{16384:0.2}": numbers of groups and their weights; None means no groups.

    Raises:
        SmaltiError: anything else.
    """
    if text is None:
        return {}
    try:
        values = ast.literal_eval(text)
        good = isinstance(values, dict) and all(
            type(count) is int
            and 0 < count <= _LARGEST["codebook_size"]
            and type(weight) in (int, float)
            and 0 <= weight <= _LARGEST_FACTOR
            for count, weight in values.items()
        )
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        good = False
    if not good:
        raise SmaltiError(f'group_ce_weight must be text like "{{16384:0.2}}", not {quoted(text)}')
    return {count: float(weight) for count, weight in values.items()}


def format_group_weights(weights: Mapping[int, float]) -> str | None:
    """Return the text that `parse_group_weights` reads."""
    if not weights:
        return None
    return "{" + ", ".join(f"{count}:{weight:g}" for count, weight in weights.items()) + "}"
