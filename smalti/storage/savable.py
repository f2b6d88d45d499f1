"""What keeps a denoiser from being written as a model folder."""

from __future__ import annotations

from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.learned import WordEmbedding
from smalti.model.lora import adapted_layers
from smalti.runtime.quantization import is_quantized


def check_savable(denoiser: Denoiser) -> None:
    """Raise SmaltiError if a denoiser has layers that `save_denoiser` cannot write."""
    if is_quantized(denoiser):
        raise SmaltiError(
            "a denoiser with quantized layers cannot be saved: smalti quantize writes folders of them"
        )
    if any(True for _ in adapted_layers(denoiser)):
        raise SmaltiError(
            "a denoiser with adapters cannot be saved: merge them, or save them with save_adapter"
        )
    if isinstance(denoiser.embed_tokens, WordEmbedding):
        raise SmaltiError(
            "a denoiser with learned words cannot be saved: their files go beside the model's folder"
        )
    if denoiser.light is not None:
        raise SmaltiError(
            "a denoiser with a light layer cannot be saved: its file goes beside the model's folder"
        )
