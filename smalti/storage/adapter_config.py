"""`adapter_config.json` of an adapter folder, in peft's layout: which updates it describes, checked field by field."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalti.common.checks import check_real, check_whole, quoted
from smalti.common.files import read_json
from smalti.errors import SmaltiError
from smalti.model.lora import LARGEST_ALPHA, LARGEST_RANK, PARTS, AdapterShape, scale_of

CONFIG = "adapter_config.json"

# Fields that must be empty, false or zero, because they describe something other than low-rank updates of a frozen
# model.
_EMPTY = (
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
# Starts of A and B that change the base, too.
_CHANGES_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")
_PLAIN_NAME = re.compile(r"\^?[\w.]{1,200}")


@dataclass(frozen=True)
class AdapterConfig:
    """The size of every update of an adapter.

    Attributes:
        kind: "lora", "rslora" or "dora".
        rank: r where no pattern matches.
        alpha: numerator of s where no pattern matches.
        ranks: r of modules by the end of their names.
        alphas: numerator of s of modules by the end of their names.
        rooted: whether DoRA's factor is alpha / √r instead of alpha / r.
    """

    kind: str
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rooted: bool = False

    def rank_of(self, module: str) -> int:
        """Return r of a module."""
        return _match(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Return s of a module."""
        kind = "rslora" if self.rooted else "lora"
        return scale_of(kind, self.rank_of(module), _match(self.alphas, module, self.alpha))


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read the configuration of an adapter folder.

    Raises:
        SmaltiError: it is missing or not JSON, a field is wrong, or it describes what Smalti cannot do.
    """
    path = folder / CONFIG
    values = read_json(path)
    try:
        return _parse(values)
    except SmaltiError as error:
        raise SmaltiError(f"{path}: {error}") from error


def _parse(values: dict[str, Any]) -> AdapterConfig:
    if values.get("peft_type") != "LORA":
        raise SmaltiError(f"peft_type must be 'LORA', not {quoted(values.get('peft_type'))}")
    if values.get("bias", "none") != "none":
        raise SmaltiError(f"bias must be 'none', not {quoted(values['bias'])}")
    for name in _EMPTY:
        if values.get(name):
            raise SmaltiError(f"{name} must be empty, because Smalti reads low-rank updates alone")
    start = values.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise SmaltiError(
            f"init_lora_weights must not be {quoted(start)}, which changes the base: convert the adapter to plain LoRA"
        )
    flags = {name: values.get(name, False) for name in ("use_dora", "use_rslora")}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise SmaltiError(f"{name} must be true or false, not {quoted(flag)}")
    rooted = flags["use_rslora"]
    return AdapterConfig(
        kind="dora" if flags["use_dora"] else "rslora" if rooted else "lora",
        rank=check_whole("r", values.get("r"), 1, LARGEST_RANK),
        alpha=check_real("lora_alpha", values.get("lora_alpha"), 0, LARGEST_ALPHA, above=True),
        ranks={
            name: check_whole("rank_pattern", rank, 1, LARGEST_RANK)
            for name, rank in _pattern(values, "rank_pattern").items()
        },
        alphas={
            name: check_real("alpha_pattern", alpha, 0, LARGEST_ALPHA, above=True)
            for name, alpha in _pattern(values, "alpha_pattern").items()
        },
        rooted=rooted,
    )


def _pattern(values: dict[str, Any], field: str) -> dict[str, Any]:
    """Return a field that maps ends of names to numbers."""
    pattern = values.get(field) or {}
    if not isinstance(pattern, dict):
        raise SmaltiError(f"{field} must be an object, not {quoted(pattern)}")
    for name in pattern:
        # peft takes these for regular expressions, which a file from elsewhere can make run for ever.
        if not _PLAIN_NAME.fullmatch(name):
            raise SmaltiError(f"{field} must have plain names of modules, not {quoted(name)}")
    return pattern


def _match(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the value of the first name that a module's name ends with."""
    for name, value in pattern.items():
        plain = name.removeprefix("^")
        if module == plain or (plain == name and module.endswith(f".{plain}")):
            return value
    return default


def peft_values(
    shape: AdapterShape, modules: Collection[str], adaptable: Collection[str], base: str
) -> dict[str, Any]:
    """Return the fields of `adapter_config.json` that let peft load an adapter.

    Args:
        shape: kind and size of the adapter.
        modules: names of the adapted modules.
        adaptable: names of all modules of the base that can be adapted.
        base: name of the base model.
    """
    short = {name if name in PARTS.values() else name.rpartition(".")[2] for name in modules}
    found = {name for name in adaptable if name in short or name.rpartition(".")[2] in short}
    return {
        "peft_type": "LORA",
        "auto_mapping": {"base_model_class": "Denoiser", "parent_library": "smalti.model.denoiser"},
        "base_model_name_or_path": base,
        "task_type": None,
        "inference_mode": True,
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": shape.dropout,
        # The ends of the names, where they stand for the same modules.
        "target_modules": sorted(short if found == set(modules) else modules),
        "use_dora": shape.kind == "dora",
        "use_rslora": shape.kind == "rslora",
        "rank_pattern": {},
        "alpha_pattern": {},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
