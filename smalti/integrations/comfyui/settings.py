"""The settings node, derived from the declarations of the settings: a new setting is a new widget."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from comfy_api.latest import io

from smalti.common.checks import quoted
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.generation.declaration import Choice, Pair, Real, Rule, Whole, declaration
from smalti.generation.settings import PRESETS, GenerationSettings, model_settings, preset_settings
from smalti.integrations.comfyui.types import SETTINGS, Changes, check_type

OWN = "model's own"
_LARGEST = 2**31 - 1
_STEP = 0.01


def setting_inputs() -> list[Any]:
    """Return a widget for each setting; its default leaves the setting as the model has it."""
    return [_input(field) for field in dataclasses.fields(GenerationSettings)]


def _input(field: dataclasses.Field[Any]) -> Any:
    name, declared = field.name, declaration(field)
    kind, blank = declared.kind, unset(field)
    tip = _without_options(declared.help)
    if isinstance(kind, Whole | Real):
        tip += f" {blank:g} keeps the {OWN}."
    if isinstance(kind, Whole):
        return io.Int.Input(name, default=blank, min=blank, max=_LARGEST, tooltip=tip, optional=True)
    if isinstance(kind, Real):
        high = min(kind.high, 10_000.0)
        return io.Float.Input(
            name, default=blank, min=blank, max=high, step=_STEP, round=0.0001, tooltip=tip, optional=True
        )
    if isinstance(kind, Choice):
        return io.Combo.Input(name, options=[OWN, *kind.names], default=OWN, tooltip=tip, optional=True)
    tip += f" Empty keeps the {OWN}."
    if isinstance(kind, Rule):
        tip += f" There are {', '.join(kind.rules())}."
    return io.String.Input(name, default=blank, tooltip=tip, optional=True)


def unset(field: dataclasses.Field[Any]) -> Any:
    """Return the value of a setting's widget that leaves the setting as it is."""
    kind = declaration(field).kind
    if isinstance(kind, Whole):
        return kind.minimum - 1
    if isinstance(kind, Real):
        return -1.0
    return OWN if isinstance(kind, Choice) else ""


def _without_options(text: str) -> str:
    """Return a help text for the node: "--budget adaptive" is "budget adaptive", and defaults are said apart."""
    text = re.sub(r" By default the (model|rule)'s own\.", "", text)
    return re.sub(r"--([a-z-]+)", lambda found: found[1].replace("-", "_"), text)


def read_changes(preset: str, values: dict[str, Any]) -> Changes:
    """Return the settings that differ from the model's own.

    Raises:
        SmaltiError: a value out of range, by the name of its setting.
    """
    changes = {}
    for field in dataclasses.fields(GenerationSettings):
        value = values.get(field.name)
        if value is None or value == unset(field):
            continue
        changes[field.name] = _pair(field.name, value) if isinstance(declaration(field).kind, Pair) else value
    GenerationSettings().replaced(**changes)
    if preset != OWN and preset not in PRESETS:
        raise SmaltiError(
            f"preset must be one of {', '.join((OWN, *PRESETS))}, not {quoted(preset)}", "preset"
        )
    return Changes(None if preset == OWN else preset, changes)


def _pair(name: str, text: Any) -> tuple[float, float]:
    """Return the two numbers of a text such as "0.1 0.9"."""
    try:
        first, second = (float(part) for part in str(text).replace(",", " ").split())
    except ValueError:
        raise SmaltiError(
            f"{name} must be two numbers from 0 to 1, such as 0 0.5, not {quoted(text)}", argument=name
        ) from None
    return first, second


def settings_of(components: Components, changes: Changes | None) -> GenerationSettings:
    """Return the settings of a model with the changes of a settings node, if one is connected.

    Raises:
        SmaltiError: a setting that the model cannot have.
    """
    config = components.denoiser.config
    own = model_settings(config.image_size, config.sampling)
    if changes is None:
        return own
    check_type("settings", changes, Changes, "Smalti Settings")
    return preset_settings(own, changes.preset, config.presets, config.sampling).replaced(**changes.values)


class SmaltiSettings(io.ComfyNode):
    """Settings of the sampling, for the sampler and for all edits."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="SmaltiSettings",
            display_name="Smalti Settings",
            category="smalti",
            description="Settings of the sampling. What is left as it is stays the model's own.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[OWN, *PRESETS],
                    default=OWN,
                    tooltip="Settings that the model has for fast drafts, in between, and best quality.",
                ),
                *setting_inputs(),
            ],
            outputs=[SETTINGS.Output("settings", display_name="settings")],
        )

    @classmethod
    def validate_inputs(cls, preset: str = OWN, **values: Any) -> bool | str:
        """Return True, or what is wrong, before anything runs."""
        try:
            read_changes(preset, values)
        except SmaltiError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, preset: str = OWN, **values: Any) -> Any:
        """Return the settings that differ from the model's own."""
        return io.NodeOutput(read_changes(preset, values))
