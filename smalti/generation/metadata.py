"""What is written into an image's file: what made it."""

from __future__ import annotations

import json

from smalti.generation.settings import GenerationSettings


def describe(
    prompt: str,
    negative_prompt: str | None,
    seed: int,
    settings: GenerationSettings,
    model: str,
    version: str,
) -> dict[str, str]:
    """Return the metadata of an image: prompt, seed, settings as JSON, model and software.

    Args:
        version: Smalti's.
    """
    text = {
        "prompt": prompt,
        "seed": str(seed),
        "settings": json.dumps(settings.to_dict()),
        "model": model,
        "Software": f"Smalti {version}",
    }
    if negative_prompt:
        text["negative prompt"] = negative_prompt
    return text
