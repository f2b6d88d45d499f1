"""The denoiser's layers compiled by torch.compile and, on a GPU, recorded as CUDA graphs.

All layers are alike, so PyTorch compiles one and the rest find it in its cache. Lengths and batch sizes are left open
(`dynamic`), so a prompt of another length compiles nothing; a batch of one, a mask for padding and a prompt memory are
cases of their own. Recordings are made here rather than by the mode "reduce-overhead", whose results are overwritten by
the next call: guidance in two passes needs both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.reuse import PromptMemory
from smalti.model.rotary import RotaryTables
from smalti.runtime.streaming import StreamedLayers

_RECORDINGS = 8  # of the latest shapes; they share their memory, but for inputs and result
_FP8_CAPABILITY = (8, 9)  # the least that Triton converts float8_e4m3fn on


def check_compiler(device: torch.device, quantize: str | None = None) -> None:
    """Compile something small, so that what is missing is known before a model is read.

    Raises:
        SmaltiError: PyTorch cannot compile for this device, or not what `quantize` stores there.
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
    """Compile the layers in place, each when it is first used; names of parameters stay as they are.

    On a GPU passes are recorded, but for those with a prompt memory and those of streamed layers, which are compiled
    only. The weights must stay where they are from then on.
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
        recorded = Recorded(denoiser.run_layers, denoiser.head.device)
        denoiser.run_layers = recorded  # type: ignore[method-assign]  # the module's own attribute comes first


class Recorded:
    """`Denoiser.run_layers`, recorded for each set of shapes when it first comes, then launched as a whole.

    What it returns is the caller's own.
    """

    def __init__(self, run: Callable[..., torch.Tensor], device: torch.device) -> None:
        self._run, self._capture = run, _Capture(device)
        # By the shapes and dtypes of the inputs, the latest used last: inputs, result, and what computes it anew.
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
        memory: PromptMemory | None = None,
    ) -> torch.Tensor:
        """As `Denoiser.run_layers`; plainly with a memory, which is not a tensor, or with gradients."""
        if memory is not None or torch.is_grad_enabled():
            return self._run(x, tables, visible=visible, text=text, text_visible=text_visible, memory=memory)
        given = (x, *tables, visible, text, text_visible)
        key = tuple(None if one is None else (tuple(one.shape), one.dtype) for one in given)
        recording = self._recordings.pop(key, None)
        if recording is None:
            while len(self._recordings) >= _RECORDINGS:
                del self._recordings[next(iter(self._recordings))]
            # Made under inference mode they could not be written to outside of it.
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
        """A place for the result of `run`, and what fills it by doing again all that `run` did on the GPU."""
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                run()  # compiles; and libraries set themselves up when they are first used
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                result = run()
        return result, graph.replay
