"""What commands that draw share: the options of every setting, loading, and pictures to be measured."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smalti.cli import options

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from smalti.pipeline import Pipeline
    from smalti.settings import GenerationSettings

# Each by the name of its setting, or of the argument of `options.load_pipeline`; None by default, but for a few.
_OPTIONS: dict[str, Any] = {
    "preset": options.Preset,
    "num_inference_steps": options.Steps,
    "guidance_scale": options.Guidance,
    "guidance_interval": options.GuidanceInterval,
    "edit_rule": options.EditRule,
    "edit_threshold": options.EditThreshold,
    "refine_share": options.RefineShare,
    "refine_frequency": options.RefineFrequency,
    "budget": options.Budget,
    "shift": options.Shift,
    "adaptive_threshold": options.AdaptiveThreshold,
    "adaptive_range": options.AdaptiveRange,
    "order": options.Order,
    "order_temperature": options.OrderTemperature,
    "order_temperature_schedule": options.OrderSchedule,
    "draw": options.Draw,
    "temperature": options.Temperature,
    "temperature_schedule": options.TemperatureSchedule,
    "top_k": options.TopK,
    "top_p": options.TopP,
    "final": options.Final,
    "reuse": options.Reuse,
    "reuse_every": options.ReuseEvery,
    "height": options.Height,
    "width": options.Width,
    "model": options.Model,
    "device": options.Device,
    "dtype": options.Dtype,
    "quantize": options.Quantize,
    "offload": options.Offload,
    "memory": options.Memory,
    "compile": options.Compile,
    "revision": options.Revision,
}
_DEFAULTS = {"device": "cpu", "compile": False}
_LOADING = ("model", "device", "dtype", "quantize", "offload", "memory", "compile", "revision")


def with_drawing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of every setting and of loading a model, after its own.

    The command finds what was given for them in its context's `params`.
    """
    return with_options(command, {name: (kind, _DEFAULTS.get(name)) for name, kind in _OPTIONS.items()})


def with_options(command: Callable[..., None], shared: Mapping[str, tuple[Any, Any]]) -> Callable[..., None]:
    """Give a command options, each by name with its annotation and default, after its own and likewise."""
    own = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in shared.items()
    ]

    @functools.wraps(command)
    def extended(**values: Any) -> None:
        command(**{name: values[name] for name in own.parameters})

    extended.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    return extended


def load_for(params: Mapping[str, Any]) -> tuple[Pipeline, GenerationSettings]:
    """The model and the settings that a command's parameters ask for.

    Raises:
        SmaltiError: there is no such model, or an option is wrong.
    """
    changes = options.setting_changes(params)
    pipe = options.load_pipeline(*(params[name] for name in _LOADING))
    with options.option_names():
        return pipe, pipe.preset(params["preset"]).replaced(changes)


def facts(pipe: Pipeline, settings: GenerationSettings) -> dict[str, Any]:
    """What drew the pictures, for a report."""
    return {"model": pipe.name, "mode": str(pipe.mode), "settings": settings.to_dict()}


def draw(
    pipe: Pipeline,
    settings: GenerationSettings,
    texts: Sequence[str],
    *,
    seed: int,
    batch_size: int,
    passes: list[int],
) -> Iterator[Image.Image]:
    """The model's picture of each text; picture i has the seed `seed` + i. `passes` gets an entry a picture."""
    for first in range(0, len(texts), batch_size):
        part = list(texts[first : first + batch_size])
        seeds = [seed + first + index for index in range(len(part))]
        with options.option_names():
            generation = pipe.start(part, settings, seed=seeds)
        result = generation.output()
        passes += result.passes
        yield from result.images


def through_tokenizer(pipe: Pipeline, batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Pictures (B, 3, H, W) uint8, batch by batch, as the model's image tokenizer gives them back, on the CPU."""
    for pixels in batches:
        yield pipe.decode(pipe.encode(pixels))


def watched(pictures: Iterator[Any], count: int, verb: str, *, show: bool) -> Iterator[Any]:
    """The same pictures, counted on the terminal."""
    from tqdm import tqdm

    return iter(tqdm(pictures, total=count, desc=verb, unit="picture", disable=not show, leave=False))
