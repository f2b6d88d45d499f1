"""What the pipelines have in common: their parts, reading and writing, and their place in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from smalti.common.checks import check_path, check_real, check_whole, quoted
from smalti.common.devices import find_device
from smalti.common.files import read_text
from smalti.components import Components
from smalti.errors import SmaltiError
from smalti.generation.settings import (
    GenerationSettings,
    check_settings,
    model_settings,
    preset_settings,
)
from smalti.integrations.diffusers.adapters import AdapterMethods
from smalti.integrations.diffusers.running import TENSORS
from smalti.integrations.diffusers.words import WordMethods
from smalti.model.denoiser import Denoiser
from smalti.model.text import TextTokenizer
from smalti.runtime.memory import Mode
from smalti.sampling.guidance import LARGEST_GUIDANCE
from smalti.storage.loading import load_components
from smalti.storage.savable import check_savable
from smalti.storage.saving import save_model
from smalti.vq.tokenizer import ImageTokenizer

if TYPE_CHECKING:
    from typing_extensions import Self


class SmaltiBase(AdapterMethods, WordMethods, DiffusionPipeline):
    """A diffusers pipeline made of a model's parts.

    Attributes:
        folder: the model folder that it was read from; None if it was made of parts.
    """

    model_cpu_offload_seq = "denoiser->image_tokenizer"
    _callback_tensor_inputs = list(TENSORS)
    image_tokenizer: ImageTokenizer
    text_tokenizer: TextTokenizer
    _interrupt = False
    _guidance_scale = 1.0

    def __init__(
        self, denoiser: Denoiser, image_tokenizer: ImageTokenizer, text_tokenizer: TextTokenizer
    ) -> None:
        super().__init__()
        self.register_modules(
            denoiser=denoiser, image_tokenizer=image_tokenizer, text_tokenizer=text_tokenizer
        )
        self.folder: Path | None = None
        self._name, self._words = "unnamed", frozenset[str]()
        self._mode: Mode | None = None
        self._place: torch.device | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device_map: str | torch.device = "cpu",
        revision: str | None = None,
        local_files_only: bool = False,
        quantize: str | None = None,
        offload: str | None = None,
        memory: str | None = None,
    ) -> Self:
        """Read a model folder or a model on the hub, as `smalti.load` does; there is no conversion.

        Args:
            model: name of a bundled model, folder, or name on the Hugging Face hub; None is "objects".
            dtype, torch_dtype: dtype of the denoiser; None is float32 on a CPU and bfloat16 elsewhere.
            device_map: device, such as "cuda".
            revision, local_files_only, quantize, offload, memory: as for `smalti.load`.

        Raises:
            SmaltiError: as for `smalti.load`.
        """
        if dtype is not None and torch_dtype is not None:
            raise SmaltiError("dtype and torch_dtype must not both be given", argument="dtype")
        parts = load_components(
            model,
            device=device_map,
            dtype=torch_dtype if dtype is None else dtype,
            quantize=quantize,
            offload=offload,
            memory=memory,
            revision=revision,
            local_files_only=local_files_only,
        )
        pipe = cls(parts.denoiser, parts.image_tokenizer, parts.text_tokenizer)
        pipe.folder = parts.folder
        pipe._name, pipe._mode, pipe._words = parts.name, parts.mode, parts.words
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: SmaltiBase) -> Self:
        """Return a pipeline of this class that shares the parts of another one.

        Raises:
            SmaltiError: the other one is no Smalti pipeline.
        """
        if not isinstance(pipeline, SmaltiBase):
            raise SmaltiError(
                f"pipeline must be a Smalti pipeline, not {type(pipeline).__name__}", argument="pipeline"
            )
        pipe = cls(pipeline.denoiser, pipeline.image_tokenizer, pipeline.text_tokenizer)
        pipe.folder, pipe._place = pipeline.folder, pipeline._place
        pipe._name, pipe._mode, pipe._words = pipeline._name, pipeline._mode, pipeline._words
        return pipe

    def save_pretrained(
        self, save_directory: str | Path, *, max_shard_size: int = 5_000_000_000, push_to_hub: bool = False
    ) -> None:
        """Write a model folder, which `from_pretrained` and all of Smalti read, with diffusers' `model_index.json`.

        Raises:
            SmaltiError: the folder cannot be written; the pipeline was not read from a folder; its layers are
                quantized or have adapters.
        """
        if push_to_hub:
            raise SmaltiError(
                "push_to_hub must be False: upload the folder with hf upload", argument="push_to_hub"
            )
        if self.folder is None:
            raise SmaltiError("a pipeline made of parts has no tokenizer.json to save: use from_pretrained")
        folder = check_path("save_directory", save_directory)
        check_whole("max_shard_size", max_shard_size)
        check_savable(self.denoiser)
        text = read_text(self.folder / "tokenizer.json")
        save_model(
            self.denoiser,
            self.image_tokenizer,
            text,
            folder,
            words=self._words,
            max_shard_bytes=max_shard_size,
        )
        self.save_config(str(folder))

    @property
    def parts(self) -> Components:
        """The model as the rest of Smalti knows it."""
        return Components(
            self.denoiser,
            self.image_tokenizer,
            self.text_tokenizer,
            name=self._name,
            mode=self._mode,
            words=self._words,
            folder=self.folder,
        )

    @property
    def device(self) -> torch.device:
        """The denoiser's device."""
        return self.denoiser.device

    @property
    def _execution_device(self) -> torch.device:
        return self.device if self._place is None else self._place

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's dtype."""
        return self.denoiser.head.dtype

    @property
    def guidance_scale(self) -> float:
        """The latest call's guidance scale, in diffusers' meaning: 1 is no guidance."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the latest call had guidance."""
        return self._guidance_scale > 1

    @property
    def interrupt(self) -> bool:
        """Whether the rest of the steps is to be skipped; set `_interrupt` in a callback."""
        return self._interrupt

    def to(self, *args: Any, dtype: torch.dtype | None = None, device: Any = None) -> Self:
        """Move the model to a device. Its dtype is chosen by `from_pretrained`.

        Raises:
            SmaltiError: an unknown device, or another dtype than the denoiser's.
        """
        for given in args:
            if isinstance(given, torch.dtype):
                dtype = given
            else:
                device = given
        if dtype not in (None, self.dtype):
            raise SmaltiError(
                f"dtype must be that of from_pretrained(dtype=...), {self.dtype}, not {quoted(str(dtype))}",
                argument="dtype",
            )
        if device is not None:
            place = find_device(device)
            self._place = None
            self.denoiser.to(place)
            self.image_tokenizer.to(place)
        return self

    def enable_model_cpu_offload(
        self, gpu_id: int | None = None, device: str | torch.device | None = None
    ) -> None:
        """Keep the parts in the host's memory, and each on the GPU while it works.

        Args:
            gpu_id: number of the GPU.
            device: device in its place.

        Raises:
            SmaltiError: there is no such device, or none at all.
        """
        if device is None and not torch.cuda.is_available():
            raise SmaltiError("device must be given: there is no GPU to offload from", argument="device")
        self.denoiser.to("cpu")
        self.image_tokenizer.to("cpu")
        self._place = find_device(f"cuda:{gpu_id or 0}" if device is None else device)

    @contextmanager
    def _at_work(self, part: nn.Module) -> Iterator[None]:
        """Have a part on the device while the block runs, where parts are offloaded."""
        if self._place is None:
            yield
            return
        part.to(self._place)
        try:
            yield
        finally:
            part.to("cpu")

    def _settings(
        self,
        preset: str | None,
        settings: GenerationSettings | None,
        guidance_scale: float | None,
        num_inference_steps: int | None,
        size: tuple[int | None, int | None],
    ) -> GenerationSettings:
        """Return the settings of a call; guidance is in diffusers' meaning, s + 1."""
        config = self.denoiser.config
        if settings is not None and preset is not None:
            raise SmaltiError("settings and preset must not both be given", argument="settings")
        if settings is None:
            own = model_settings(config.image_size, config.sampling)
            settings = preset_settings(own, preset, config.presets, config.sampling)
        check_settings(settings)
        scale = guidance_scale
        if scale is not None:
            scale = max(0.0, check_real("guidance_scale", scale, 0, LARGEST_GUIDANCE + 1) - 1)
        height, width = size
        settings = settings.replaced(
            guidance_scale=scale, num_inference_steps=num_inference_steps, height=height, width=width
        )
        self._guidance_scale = settings.guidance_scale + 1
        return settings


def check_negative(negative_prompt: Any, settings: GenerationSettings) -> None:
    """Raise SmaltiError for a negative prompt without guidance, whose scale is in diffusers' meaning."""
    if negative_prompt and not settings.guidance_scale:
        raise SmaltiError(
            "negative_prompt needs guidance: set guidance_scale above 1", argument="negative_prompt"
        )
