"""The fields of requests: OpenAI's, Smalti's own, and every setting, which comes from its one declaration."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smalti.common.checks import LARGEST_SEED, check_whole, quoted
from smalti.errors import SmaltiError
from smalti.generation.declaration import Choice, Kind, Real, Whole, declaration
from smalti.generation.settings import PRESETS, GenerationSettings
from smalti.serving.errors import ApiError, encodable, from_smalti, invalid

OPERATIONS = ("generation", "edit", "variation", "selection")
"""What a request may ask for."""

_ALL = frozenset(OPERATIONS)
_DRAWS = frozenset({"generation", "edit", "variation"})
_GENERATES = frozenset({"generation"})
_EDITS = frozenset({"edit", "selection"})
_SELECTS = frozenset({"edit", "variation", "selection"})


@dataclass(frozen=True)
class Text(Kind):
    """A text of at most so many letters, which can be written as UTF-8."""

    longest: int
    type = str

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        return f"text of at most {self.longest} letters"

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or raise SmaltiError with the name of the field."""
        if not isinstance(value, str):
            raise SmaltiError(f"{name} must be text, not {quoted(value)}", argument=name)
        if len(value) > self.longest:
            raise SmaltiError(
                f"{name} must have at most {self.longest} letters, not {len(value)}", argument=name
            )
        if any("\ud800" <= letter <= "\udfff" for letter in value) or "\0" in value:
            raise SmaltiError(f"{name} must be text without lone surrogates and NUL", argument=name)
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values."""
        return {"type": "string", "maxLength": self.longest}


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    type = bool
    allowed = "true or false"

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or raise SmaltiError with the name of the field."""
        if not isinstance(value, bool):
            raise SmaltiError(f"{name} must be true or false, not {quoted(value)}", argument=name)
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Between(Kind):
    """A whole number from `low` to `high`."""

    low: int
    high: int
    type = int

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        return f"whole number from {self.low} to {self.high}"

    def check(self, name: str, value: Any) -> Any:
        """Return the value, or raise SmaltiError with the name of the field."""
        return check_whole(name, value, self.low, self.high)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Sides(Kind):
    """Pixels at the left, top, right and bottom."""

    type = tuple[int, int, int, int]
    allowed = "four whole numbers: left, top, right, bottom"

    def check(self, name: str, value: Any) -> Any:
        """Return the value as a tuple, or raise SmaltiError with the name of the field."""
        if not isinstance(value, tuple | list) or len(value) != 4:
            raise SmaltiError(f"{name} must be {self.allowed}, not {quoted(value)}", argument=name)
        return tuple(check_whole(name, side, 0, 2**16) for side in value)

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values."""
        side = {"type": "integer", "minimum": 0, "maximum": 2**16}
        return {"type": "array", "items": side, "minItems": 4, "maxItems": 4}


@dataclass(frozen=True)
class Anything(Kind):
    """A field that has no effect: any value is taken."""

    type = str
    allowed = "anything"

    def check(self, name: str, value: Any) -> Any:
        """Return the value."""
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of the values."""
        return {}


@dataclass(frozen=True)
class Field:
    """A field of a request.

    Attributes:
        kind: the values that it may have.
        help: what it means.
        operations: the requests that have it.
        idle: whether it is accepted and has no effect.
    """

    kind: Kind
    help: str
    operations: frozenset[str] = _ALL
    idle: bool = False


_QUALITIES = ("auto", "standard", "low", "medium", "high", "xhigh", "max", "hd")
_OWN = {
    "model": Field(Text(200), "Name of a model of /v1/models; the first one by default."),
    "prompt": Field(Text(1_000_000), "What the image shows."),
    "n": Field(Whole(1), "Number of images.", _DRAWS),
    "size": Field(
        Text(20),
        "auto, or WIDTHxHEIGHT in pixels. The model draws at the nearest size that suits it; the result is resampled.",
        _DRAWS,
    ),
    "quality": Field(
        Choice(*_QUALITIES),
        "low, medium and high (or more) stand for the presets fast, balanced and quality.",
    ),
    "output_format": Field(Choice("png", "jpeg", "webp"), "Format of the file.", _DRAWS),
    "output_compression": Field(Between(0, 100), "Quality of JPEG and WebP; 100 by default.", _DRAWS),
    "background": Field(
        Choice("auto", "opaque"), "auto or opaque; images have no transparent background.", _DRAWS
    ),
    "response_format": Field(Choice("b64_json", "url"), "b64_json by default.", _DRAWS),
    "stream": Field(Flag(), "Send server-sent events.", _DRAWS),
    "partial_images": Field(Between(0, 3), "Decoded images on the way, in a stream.", _DRAWS),
    "seed": Field(Between(0, LARGEST_SEED), "Image k, from 0, gets seed + k; random by default."),
    "negative_prompt": Field(
        Text(1_000_000),
        "What the image should not show, in the unconditional pass; it needs guidance.",
        _DRAWS,
    ),
    "preset": Field(Choice(*PRESETS), "Settings that go together; other settings override it."),
    "metadata": Field(
        Flag(), "Write prompt, seed, settings and tokens into the file; true by default.", _DRAWS
    ),
    "mask_mode": Field(
        Choice("auto", "alpha", "white"),
        "What a mask marks: alpha, transparent pixels; white, light pixels; auto, transparent pixels if some are "
        "transparent and some are not, else light ones.",
        _EDITS,
    ),
    "source_prompt": Field(
        Text(1_000_000), "What the image shows, for the automatic selection of tokens.", _EDITS
    ),
    "strength": Field(
        Real(0, 1, above=True), "Share of the tokens to fill again at random; 0.5 in variations.", _SELECTS
    ),
    "share": Field(
        Real(0, 1, above=True), "Share of the tokens to fill again, the least likely ones.", _EDITS
    ),
    "threshold": Field(
        Real(0, 1), "Share of the largest drop of likelihood above which tokens change.", _EDITS
    ),
    "grow": Field(Sides(), "Pixels to add at the left, top, right and bottom.", _EDITS),
    "keep_pixels": Field(Flag(), "Take pixels outside the region from the image itself.", _SELECTS),
    "blend": Field(Flag(), "Let kept pixels fade into the region.", _SELECTS),
}
_IDLE = {
    "user": "deprecated by OpenAI",
    "safety_identifier": "there are no accounts to tell apart",
    "moderation": "there is no moderation",
    "style": "of a retired model",
    "input_fidelity": "use keep_pixels",
    "complexity": "of other models",
    "frame_count": "of animated formats",
    "frame_duration_ms": "of animated formats",
    "svg": "of vector formats",
}


def _settings() -> dict[str, Field]:
    """Return a field for every setting, from its declaration."""
    declared = {field.name: declaration(field) for field in dataclasses.fields(GenerationSettings)}
    return {name: Field(one.kind, one.help) for name, one in declared.items()}


SETTINGS: Mapping[str, Field] = _settings()
"""Fields of the settings."""

FIELDS: Mapping[str, Field] = {
    **_OWN,
    **SETTINGS,
    **{name: Field(Anything(), f"No effect: {why}.", idle=True) for name, why in _IDLE.items()},
}
"""Every field but files: `image`, `mask` and the `kind` of a job."""


@dataclass(frozen=True)
class Values:
    """The fields of a request, checked.

    Attributes:
        given: values by name, without those that have no effect.
        ignored: names of fields that have no effect.
    """

    given: dict[str, Any]
    ignored: list[str]

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a field, or the default."""
        return self.given.get(name, default)


def read_fields(raw: Mapping[str, Any], operation: str, *, ignore_unknown: bool = False) -> Values:
    """Check the fields of a request.

    Args:
        raw: values by name, from JSON, or texts from a form; None counts as absent.
        operation: one of `OPERATIONS`.
        ignore_unknown: whether unknown fields are ignored and listed, or refused.

    Raises:
        ApiError: 400 with the field's name.

    Example:
        >>> read_fields({"prompt": "a red circle", "top_p": 0.9, "user": "me"}, "generation")
        Values(given={'prompt': 'a red circle', 'top_p': 0.9}, ignored=['user'])
    """
    given: dict[str, Any] = {}
    ignored: list[str] = []
    for name, value in raw.items():
        field = FIELDS.get(name)
        if value is None:
            continue
        if field is None or operation not in field.operations:
            if not ignore_unknown:
                raise _unknown(name, operation)
            ignored.append(encodable(name[:80]))
        elif field.idle:
            ignored.append(name)
        else:
            try:
                given[name] = field.kind.check(name, value)
            except SmaltiError as error:
                raise from_smalti(error) from error
    return Values(given, ignored)


def from_texts(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a form, whose fields are texts, as JSON would have them.

    What cannot be read as the field's type stays text, so that its check says what is allowed.

    Example:
        >>> from_texts({"n": "2", "stream": "true", "guidance_interval": "0.1, 0.9", "prompt": "7"})
        {'n': 2, 'stream': True, 'guidance_interval': [0.1, 0.9], 'prompt': '7'}
    """
    return {
        name: _from_text(FIELDS[name].kind, text) if name in FIELDS else text for name, text in raw.items()
    }


def _from_text(kind: Kind, text: Any) -> Any:
    if not isinstance(text, str) or kind.type is str:
        return text
    if kind.type is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text)
    listed = kind.type not in (int, float)
    try:
        value = json.loads(f"[{text}]" if listed and not text.lstrip().startswith("[") else text)
    except (ValueError, RecursionError):
        return text
    known = isinstance(value, list) if listed else isinstance(value, int | float)
    return value if known else text


def _unknown(name: str, operation: str) -> ApiError:
    shown = quoted(name, 60)
    if name in FIELDS:
        return invalid(f"{shown} is not a field of this request", name[:80], "unknown_parameter")
    known = ", ".join(field for field, one in _OWN.items() if operation in one.operations)
    message = f"unknown field {shown}; there are {known} and the settings of /api/info"
    return invalid(message, name[:80], "unknown_parameter")
