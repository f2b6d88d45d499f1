"""The denoiser's layers compiled by torch.compile and, on a GPU, recorded as CUDA graphs.

All layers are alike, so PyTorch compiles one and finds the others in its cache. Lengths and batch sizes are dynamic, so
a prompt of another length compiles nothing. A batch of one, a mask for padding and a prompt memory are compiled
separately. This module makes its own recordings: the next call overwrites the results of the mode "reduce-overhead",
and guidance in two passes needs both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from smalti.errors import SmaltiError
from smalti.model.cells import CellMemory
from smalti.model.denoiser import Denoiser
from smalti.model.reuse import PromptMemory
from smalti.model.rotary import RotaryTables
from smalti.runtime.streaming import StreamedLayers
from smalti.vq.layers import ResnetBlock, Upsample
from smalti.vq.tokenizer import ImageTokenizer

_RECORDINGS = 8  # latest shapes; recordings share their memory, except inputs and result
_FP8_CAPABILITY = (8, 9)  # lowest compute capability on which Triton converts float8_e4m3fn


def check_compiler(device: torch.device, quantize: str | None = None) -> None:
    """Compile a small function, to report a missing compiler before a model is read.

    Raises:
        SmaltiError: PyTorch cannot compile for this device, or not for layers stored by `quantize` there.
    """
    if quantize == "fp8" and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < _FP8_CAPABILITY:
            raise SmaltiError(
                "compile=True with quantize='fp8' needs a GPU of compute capability 8.9 or later, "
                f"not {capability[0]}.{capability[1]}: leave out one of the two"
            )
    try:
        torch.compile(_trial)(torch.ones(8, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        reason = str(getattr(error, "inner_exception", error)).splitlines() or [type(error).__name__]
        raise SmaltiError(
            "compile=True needs a C++ compiler, on a GPU Triton as well, that PyTorch can use for device "
            f"{device}: {reason[0]}"
        ) from error


def _trial(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1


def compile_layers(denoiser: Denoiser) -> None:
    """Compile the layers in place, each at its first use; parameters keep their names.

    On a GPU passes are also recorded, except those with a prompt memory and those of streamed layers. From then on
    the weights must not move.
    """
    streamed = isinstance(denoiser.layers, StreamedLayers)
    layers = list(
        denoiser.layers.on_device if isinstance(denoiser.layers, StreamedLayers) else denoiser.layers
    )
    if denoiser.config.conditioning == "cross_attention":
        layers += denoiser.text_layers
    for layer in layers:
        layer.compile(dynamic=True)
    if denoiser.head.is_cuda and not streamed:
        record_passes(denoiser)


def record_passes(denoiser: Denoiser) -> None:
    """Record passes of layers that are on a GPU as CUDA graphs; from then on the weights must not move."""
    recorded = Recorded(denoiser.run_layers, denoiser.device)
    denoiser.run_layers = recorded  # type: ignore[method-assign]  # the module's own attribute comes first


def compile_decoder(tokenizer: ImageTokenizer) -> None:
    """Compile the blocks that decode whole feature maps, in place, each at its first use; bands are not compiled."""
    compile_blocks(tokenizer.decoder)


def compile_blocks(decoder: nn.Module) -> None:
    """Compile each residual block and upsampling of a decoder, in place."""
    for layer in decoder.modules():
        if isinstance(layer, ResnetBlock | Upsample):
            layer.forward = torch.compile(layer.forward, dynamic=True)  # type: ignore[method-assign]


class Recorded:
    """`Denoiser.run_layers`, recorded for each new set of shapes, then launched as a whole.

    The caller owns the result.
    """

    def __init__(self, run: Callable[..., torch.Tensor], device: torch.device) -> None:
        self._run, self._capture = run, _Capture(device)
        # By the shapes and dtypes of the inputs, the latest used last: inputs, result, and the replay.
        self._recordings: dict[
            tuple[Any, ...], tuple[list[torch.Tensor | None], torch.Tensor, Callable[[], None]]
        ] = {}

    def __call__(
        self,
        x: torch.Tensor,
        tables: RotaryTables,
        *,
        visible: torch.Tensor | None = None,
        text: torch.Tensor | None = None,
        text_visible: torch.Tensor | None = None,
        memory: PromptMemory | CellMemory | None = None,
    ) -> torch.Tensor:
        """Run the layers; without a recording if there is a memory, which is not a tensor, or gradients."""
        if memory is not None or torch.is_grad_enabled():
            return self._run(x, tables, visible=visible, text=text, text_visible=text_visible, memory=memory)
        given = (x, *tables, visible, text, text_visible)
        key = tuple(None if one is None else (tuple(one.shape), one.dtype) for one in given)
        recording = self._recordings.pop(key, None)
        if recording is None:
            while len(self._recordings) >= _RECORDINGS:
                del self._recordings[next(iter(self._recordings))]
            # Tensors made under inference mode could not be written to outside it.
            with torch.inference_mode(False):
                place, cos, sin = x.clone(), tables.cos.clone(), tables.sin.clone()
                rest = [None if one is None else one.clone() for one in given[3:]]
            scale, *masks = rest
            own = [place, cos, sin, *rest]
            named = dict(zip(("visible", "text", "text_visible"), masks, strict=True))
            result, replay = self._capture(lambda: self._run(place, RotaryTables(cos, sin, scale), **named))
            recording = own, result, replay
        self._recordings[key] = recording
        own, result, replay = recording
        for target, source in zip(own, given, strict=True):
            if target is not None and source is not None:
                target.copy_(source)
        replay()
        return result.clone()


class _Capture:
    """Makes CUDA graphs that share one pool of memory: they never run at the same time, and results are copied."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        """Record `run`; return its result and a function that fills it again by the same work on the GPU."""
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                run()  # compiles, and libraries initialise at their first use
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                result = run()
        return result, graph.replay
