"""Settings that were asked for and have no effect beside the others."""

from __future__ import annotations

from collections.abc import Collection

from smalti.generation.build import make_sampler
from smalti.generation.settings import GenerationSettings


def without_effect(settings: GenerationSettings, given: Collection[str]) -> list[tuple[str, str]]:
    """Return each setting that was given and has no effect, and the condition under which it has none.

    Args:
        settings: every setting.
        given: names of the settings that were asked for.

    Returns:
        Pairs of a name and a text. The text holds names of settings in braces, such as "with {draw} argmax".

    Example:
        >>> without_effect(GenerationSettings(draw="argmax", temperature=0.5), ["draw", "temperature"])
        [('temperature', 'with {draw} argmax')]
    """
    sampler = make_sampler(settings)
    cooled = settings.temperature_schedule != "constant"
    limited = settings.guidance_interval != (0.0, 1.0)
    skips = sampler.guidance_passes.skips
    order = sampler.order
    schedule = getattr(order, "schedule", "constant")
    conditions = [
        ("temperature", sampler.argmax and settings.temperature > 0, "with {draw} argmax"),
        ("temperature_schedule", cooled and sampler.argmax, "with {draw} argmax"),
        ("temperature_schedule", cooled and settings.temperature == 0, "with {temperature} 0"),
        ("guidance_interval", limited and not settings.guidance_scale, "with {guidance_scale} 0"),
        (
            "guidance_schedule",
            settings.guidance_schedule != "constant" and not settings.guidance_scale,
            "with {guidance_scale} 0",
        ),
        (
            "refinement",
            settings.refinement != "none" and not sampler.budget.planned,
            "with {budget} adaptive",
        ),
        ("final", settings.final == "release" and not sampler.revision.enabled, "without {revision}"),
        ("reuse_every", not hasattr(sampler.reuse, "every"), "without {reuse}"),
        ("reuse", getattr(sampler.reuse, "every", 0) == 1, "with {reuse_every} 1"),
        ("guidance_passes", skips and not settings.guidance_scale, "with {guidance_scale} 0"),
        (
            "order",
            schedule != "constant" and not getattr(order, "temperature", 0),
            "in its schedule without a temperature",
        ),
    ]
    found: dict[str, str] = {}
    for name, idle, text in conditions:
        if idle and name in given:
            found.setdefault(name, text)
    return list(found.items())
