"""From settings to a sampler."""

from __future__ import annotations

import dataclasses
from typing import Any

from smalti.generation.declaration import Rule, declaration
from smalti.generation.settings import GenerationSettings
from smalti.sampling.guidance import Guidance
from smalti.sampling.predictor import Draw
from smalti.sampling.refinement import NoRefinement
from smalti.sampling.sampler import Sampler


def make_sampler(settings: GenerationSettings, *, guidance_batched: bool = True) -> Sampler:
    """Return the composition of rules that settings stand for.

    Args:
        guidance_batched: as in `Sampler`.

    Example:
        >>> make_sampler(GenerationSettings(order="halton")).order
        HaltonOrder()
    """
    rules = _rules(settings)
    return Sampler(
        steps=settings.num_inference_steps,
        budget=rules["budget"],
        order=rules["order"],
        revision=rules["revision"],
        refinement=rules["refinement"] if rules["budget"].planned else NoRefinement(),
        guidance=Guidance(settings.guidance_scale, settings.guidance_interval, rules["guidance_schedule"]),
        steering=rules["steering"],
        draw=Draw(
            settings.temperature, settings.top_k or None, settings.top_p if settings.top_p < 1 else None
        ),
        argmax=settings.draw == "argmax",
        temperature_schedule=rules["temperature_schedule"],
        final=settings.final,
        reuse=_every(rules["reuse"], settings.reuse_every),
        guidance_passes=rules["guidance_passes"],
        guidance_batched=guidance_batched,
    )


def _every(rule: Any, every: int | None) -> Any:
    """Return a rule with its field `every` set, if it has one and `every` is not None."""
    if every is None or not hasattr(rule, "every"):
        return rule
    return dataclasses.replace(rule, every=every)


def _rules(settings: GenerationSettings) -> dict[str, Any]:
    """Return the rules that settings name, by the settings' names."""
    kinds = {field.name: declaration(field).kind for field in dataclasses.fields(settings)}
    return {
        name: kind.parse(name, getattr(settings, name))
        for name, kind in kinds.items()
        if isinstance(kind, Rule)
    }
