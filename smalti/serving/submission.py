"""From a request's fields and files to a job: everything that can be checked is checked before the queue."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from smalti.components import Components
from smalti.editing.edit import check_prompts_differ
from smalti.editing.selection import Selection
from smalti.editing.source import open_source
from smalti.errors import SmaltiError
from smalti.generation.drawing import start
from smalti.generation.effects import without_effect
from smalti.generation.seeds import image_seeds
from smalti.generation.settings import GenerationSettings
from smalti.pipeline import Pipeline
from smalti.serving.encoding import Output
from smalti.serving.errors import from_smalti, invalid
from smalti.serving.fields import SETTINGS, Values, read_fields
from smalti.serving.jobs import Job
from smalti.serving.limits import Limits
from smalti.serving.models import Models
from smalti.serving.pictures import read_mask, read_picture
from smalti.serving.sizes import Size, parse_size, plan_size
from smalti.serving.tasks import EditTask, Task

_PRESET_OF = {"low": "fast", "medium": "balanced", "high": "quality"}
_PRESET_OF |= {"xhigh": "quality", "max": "quality", "hd": "quality"}
_STRENGTH = 0.5


@dataclass(frozen=True)
class Request:
    """What a client sent, read but not checked.

    Attributes:
        operation: "generation", "edit", "variation" or "selection".
        fields: values by name.
        image, mask: files, or None.
        client, owner: as in `Job`.
    """

    operation: str
    fields: Mapping[str, Any]
    image: bytes | None = None
    mask: bytes | None = None
    client: str = ""
    owner: str = ""


class Submission:
    """Makes jobs of requests.

    Args:
        models: the models.
        limits: bounds of what may be asked for.
        strict_size: whether sizes that the model does not draw are refused.
        ignore_unknown: whether unknown fields are ignored and listed.
        metadata: whether files say what made them, unless a request says otherwise.
    """

    def __init__(
        self,
        models: Models,
        limits: Limits,
        *,
        strict_size: bool = False,
        ignore_unknown: bool = False,
        metadata: bool = True,
    ) -> None:
        self._models, self._limits = models, limits
        self._strict_size, self._ignore_unknown, self._metadata = strict_size, ignore_unknown, metadata

    def job(self, request: Request) -> Job:
        """Return the job of a request. It takes milliseconds, more with an image: call it in a thread.

        Raises:
            ApiError: a field or a file that is wrong, by name.
        """
        values = read_fields(request.fields, request.operation, ignore_unknown=self._ignore_unknown)
        try:
            return self._job(request, values)
        except SmaltiError as error:
            raise from_smalti(error) from error

    def _job(self, request: Request, values: Values) -> Job:
        name, pipe = self._models.find(values.get("model"))
        ignored, warnings = list(values.ignored), []
        settings, size = self._settings(values, pipe, request, ignored)
        edit, prompt = self._edit(request, values, pipe, settings, ignored)
        if edit is not None:
            height, width = self._canvas(edit, pipe)
            settings = settings.replaced(height=height, width=width)
            size = self._edited_size(values, edit, ignored)
        count = values.get("n", 1)
        self._check(values, prompt, count)
        task = self._task(name, pipe, prompt, values, settings, count, edit)
        for setting, text in without_effect(settings, values.given):
            names = {field.name: field.name for field in dataclasses.fields(settings)}
            warnings.append(f"{setting} has no effect {text.format_map(names)}")
        words = pipe.components.unknown_words([prompt, values.get("negative_prompt") or ""])
        if words:
            warnings.append(f"the model has never seen these words in training: {', '.join(words[:8])}"[:300])
        grid = pipe.components.grid(*task.settings.size)
        return Job(
            operation=request.operation,
            task=task,
            output=self._output(values, size, ignored),
            client=request.client,
            owner=request.owner,
            request=dict(values.given),
            ignored=ignored,
            warnings=warnings,
            partials=values.get("partial_images", 0) if values.get("stream") else 0,
            work=grid[0] * grid[1] * task.settings.num_inference_steps,
        )

    def _settings(
        self, values: Values, pipe: Pipeline, request: Request, ignored: list[str]
    ) -> tuple[GenerationSettings, Size]:
        """Return the settings of a request: the preset's, then those that it names; and its size."""
        quality = values.get("quality")
        preset = values.get("preset") or _PRESET_OF.get(quality)
        if quality in ("auto", "standard") or (quality and values.get("preset")):
            ignored.append("quality")
        changes = {name: values.get(name) for name in SETTINGS if name in values.given}
        settings = pipe.preset(preset).replaced(**changes)
        own = pipe.settings.size
        if "height" in changes or "width" in changes:
            if request.operation != "generation":
                name = "height" if "height" in changes else "width"
                raise invalid(f"{name} is not a field of this request: an edit has the image's size", name)
            if values.get("size", "auto") != "auto":
                raise invalid("size must not be given beside height and width", "size")
            most, (height, width) = self._limits.output_pixels, settings.size
            if height * width > most:
                name = "height" if "height" in changes else "width"
                raise invalid(
                    f"height and width must be at most {most} pixels together (height × width), not {height}×{width}",
                    name,
                )
            return settings, Size(settings.size)
        text = values.get("size", "auto") if request.operation == "generation" else "auto"
        size = plan_size(text, pipe.components, own, strict=self._strict_size, limits=self._limits)
        return settings.replaced(height=size.drawn[0], width=size.drawn[1]), size

    def _edit(
        self,
        request: Request,
        values: Values,
        pipe: Pipeline,
        settings: GenerationSettings,
        ignored: list[str],
    ) -> tuple[EditTask | None, str]:
        """Return the edit of a request and its prompt; None for one that draws from nothing."""
        prompt = values.get("prompt")
        if request.operation == "generation":
            if prompt is None:
                raise invalid("prompt is missing: say what the image shows", "prompt", "missing_parameter")
            return None, prompt
        if request.image is None:
            raise invalid("image is missing: send a PNG, JPEG or WebP file", "image", "missing_parameter")
        picture = read_picture(request.image, self._limits)
        variation = request.operation == "variation"
        if prompt is None and variation:
            prompt = picture.prompt
        if prompt is None:
            hint = (
                "the file does not say what it shows; say it"
                if variation
                else "say what the image is to show"
            )
            raise invalid(f"prompt is missing: {hint}", "prompt", "missing_parameter")
        mask = None
        if request.mask is not None:
            mode = values.get("mask_mode", "auto")
            mask = read_mask(request.mask, mode, picture.pixels.shape[:2], self._limits)
        elif "mask_mode" in values.given:
            ignored.append("mask_mode")
        selection = Selection(
            source_prompt=values.get("source_prompt"),
            mask=mask,
            grow=values.get("grow"),
            strength=values.get("strength", _STRENGTH if variation else None),
            share=values.get("share"),
            threshold=values.get("threshold"),
        )
        source = open_source(pipe.components, picture, settings.size, reuse=True)
        if selection.automatic:
            check_prompts_differ(
                prompt, source.prompt if selection.source_prompt is None else selection.source_prompt
            )
        return EditTask(source, selection, values.get("keep_pixels", True), values.get("blend", True)), prompt

    def _canvas(self, edit: EditTask, pipe: Pipeline) -> tuple[int, int]:
        """Return (height, width) of the canvas that an edit is drawn on."""
        canvas, grow = edit.source.canvas, edit.selection.grow
        if grow is None:
            return canvas.canvas
        components = pipe.components
        unit = components.image_tokenizer.config.downscale * components.denoiser.config.cell
        grown, _ = canvas.grown(grow, unit)
        if grown.size[0] * grown.size[1] > self._limits.image_pixels:
            raise invalid(
                f"grow must leave at most {self._limits.image_pixels / 1e6:g} megapixels, "
                f"not {grown.size[1]}x{grown.size[0]} pixels",
                "grow",
            )
        return grown.canvas

    def _edited_size(self, values: Values, edit: EditTask, ignored: list[str]) -> Size:
        """Return the size of an edited image: its own, or one in the same shape to resample to."""
        height, width = edit.source.picture.pixels.shape[:2]
        if edit.selection.grow is not None:
            left, top, right, bottom = edit.selection.grow
            height, width = height + top + bottom, width + left + right
        asked = parse_size(values.get("size", "auto"), self._limits)
        if asked is None or asked == (height, width):
            return Size((height, width))
        if self._strict_size:
            raise invalid(f"size must be auto or that of the image, {width}x{height}", "size", "invalid_size")
        if abs(asked[0] * width - asked[1] * height) > max(asked) + max(height, width):
            ignored.append("size")  # another shape would distort the image
            return Size((height, width))
        return Size((height, width), asked)

    def _check(self, values: Values, prompt: str, count: int) -> None:
        most = self._limits.prompt_letters
        for name, text in (
            ("prompt", prompt),
            *((name, values.get(name, "")) for name in ("negative_prompt", "source_prompt")),
        ):
            if len(text) > most:
                raise invalid(f"{name} must have at most {most} letters, not {len(text)}", name)
        if count > self._limits.images:
            raise invalid(f"n must be at most {self._limits.images}, not {count}", "n")

    def _task(
        self,
        name: str,
        pipe: Pipeline,
        prompt: str,
        values: Values,
        settings: GenerationSettings,
        count: int,
        edit: EditTask | None,
    ) -> Task:
        """Return the task, after a start of it: that checks all that a worker would refuse, and draws nothing."""
        components, negative = pipe.components, values.get("negative_prompt") or None
        seeds = image_seeds(values.get("seed"), None, 1, count)
        start(components, prompt, settings, negative_prompt=negative, seed=seeds[0])
        return Task(
            model=name,
            prompt=prompt,
            negative_prompt=negative,
            settings=settings,
            seeds=tuple(seeds),
            lengths=_lengths(components, [prompt, *([negative] if negative else [])], settings),
            edit=edit,
        )

    def _output(self, values: Values, size: Size, ignored: list[str]) -> Output:
        form = values.get("output_format", "png")
        if form == "png" and "output_compression" in values.given:
            ignored.append("output_compression")
        ignored += [name for name in ("background",) if name in values.given]
        if not values.get("stream") and "partial_images" in values.given:
            ignored.append("partial_images")
        return Output(
            form=form,
            quality=values.get("output_compression", 100),
            size=size.output,
            metadata=values.get("metadata", self._metadata),
        )


def _lengths(components: Components, texts: list[str], settings: GenerationSettings) -> tuple[int, int]:
    """Return the number of text tokens of the prompt and of the negative prompt, 0 without one."""
    found = components.prompts(texts, *settings.size).lengths.tolist()
    return found[0], found[1] if len(found) > 1 else 0
