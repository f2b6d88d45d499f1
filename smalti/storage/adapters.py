"""Adapter folders in peft's layout: strict reading into a denoiser, writing whole or not at all.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. The latter's metadata hold a fingerprint of the
base model, and `words.txt` the words of the training captions; peft ignores both.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from smalti.common.checks import check_real, quoted
from smalti.common.files import atomic_path, make_folder, write_json
from smalti.errors import SmaltiError
from smalti.model.adapter import Adapter, matrix_shape
from smalti.model.lora import TARGETS, AdapterShape, attach, is_adaptable
from smalti.storage.adapter_config import CONFIG, AdapterConfig, peft_values, read_adapter_config
from smalti.storage.entries import PREFIX, Entry, PackedEntry
from smalti.storage.folder import save_words
from smalti.storage.headers import read_denoisers, read_header
from smalti.storage.mapping import FLOATS, map_tensor, read_tensor

ADAPTER = "adapter_model.safetensors"
_BASE = "smalti_base"  # key of the base's fingerprint in the metadata
# Prefixes: peft's, ComfyUI's, and that of the reference model's own class.
_NAME = re.compile(
    r"(?:base_model\.model\.|diffusion_model\.)?(?:encoder\.)?(?P<module>[\w.]+)\."
    r"(?:lora_(?P<matrix>[AB])(?:\.default)?\.weight|lora_magnitude_vector(?:\.default)?(?:\.weight)?)"
)
_SAMPLED_ROWS = 64


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter folder whose headers have been read.

    Attributes:
        folder: the folder.
        config: its configuration.
        updates: the tensors of each module: "A", "B" and, for DoRA, "magnitude".
        base: fingerprint of the base that it was trained on, or None where the file has none.
    """

    folder: Path
    config: AdapterConfig
    updates: dict[str, dict[str, Entry]]
    base: str | None

    @property
    def bytes(self) -> int:
        """Number of bytes of the tensors in the file."""
        return sum(entry.size for update in self.updates.values() for entry in update.values())


def read_adapter(folder: str | Path) -> StoredAdapter:
    """Read the configuration and the headers of an adapter folder.

    Raises:
        SmaltiError: a file is missing, damaged or of another kind, or the adapter changes what cannot be adapted.
    """
    # Path("") would be the folder that the process works in.
    if not isinstance(folder, str | Path) or folder == "" or not os.path.isdir(folder):
        raise SmaltiError(
            f"adapter must be a folder that exists, not {quoted(str(folder))}", argument="adapter"
        )
    folder = Path(folder)
    config = read_adapter_config(folder)
    path = folder / ADAPTER
    if not os.path.isfile(path):
        raise SmaltiError(f"{folder} lacks {ADAPTER}")
    updates: dict[str, dict[str, Entry]] = {}
    for name, entry in read_header(path).items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise SmaltiError(f"{path} holds {quoted(name)}, which is no tensor of a LoRA adapter")
        if entry.dtype not in FLOATS:
            raise SmaltiError(f"{path}: {quoted(name)} must be floating-point, not {entry.dtype}")
        updates.setdefault(match["module"], {})[match["matrix"] or "magnitude"] = entry
    _check_updates(path, config, updates)
    with safe_open(path, framework="np") as file:
        base = (file.metadata() or {}).get(_BASE)
    return StoredAdapter(folder, config, updates, base)


def read_adapters(adapter: str | Path | Sequence[str | Path] | None) -> list[StoredAdapter]:
    """Read the headers of one adapter folder or several, or of none for None.

    Raises:
        SmaltiError: as for `read_adapter`.
    """
    if adapter is None:
        return []
    folders = [adapter] if isinstance(adapter, str | Path) else adapter
    if not isinstance(folders, list | tuple) or not all(isinstance(one, str | Path) for one in folders):
        raise SmaltiError(
            f"adapter must be a folder or a list of folders, not {quoted(adapter)}", argument="adapter"
        )
    return [read_adapter(one) for one in folders]


def _check_updates(path: Path, config: AdapterConfig, updates: dict[str, dict[str, Entry]]) -> None:
    """Raise SmaltiError unless every module can be adapted and has the tensors of the adapter's kind."""
    if not updates:
        raise SmaltiError(f"{path} holds no tensors")
    if refused := sorted(name for name in updates if not is_adaptable(name)):
        more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
        raise SmaltiError(
            f"{path} adapts {refused[0]}{more}, which Smalti cannot: targets are {', '.join(TARGETS)}"
        )
    needed = {"A", "B", "magnitude"} if config.kind == "dora" else {"A", "B"}
    for name, update in updates.items():
        if found := sorted(needed ^ update.keys()):
            verb = "lacks" if found[0] in needed else "has"
            raise SmaltiError(f"{path}: {name} {verb} {found[0]}, but {CONFIG} describes {config.kind}")


def attach_adapter(denoiser: nn.Module, stored: StoredAdapter, *, label: str, strength: float = 1.0) -> None:
    """Read the tensors of an adapter into a denoiser, in the dtype of its norms and on the devices of its layers.

    Args:
        denoiser: the denoiser, changed in place. Adapters of layers that are streamed come before streaming.
        stored: the adapter.
        label: name of this adapter's updates in the denoiser.
        strength: factor of all updates.

    Raises:
        SmaltiError: the adapter is for a base of another shape; the denoiser is unchanged.
    """
    modules = dict(denoiser.named_modules())
    for name, update in stored.updates.items():
        if name not in modules:
            raise SmaltiError(f"{stored.folder} is for another base: the model has no {name}")
        _check_shapes(stored, name, update, matrix_shape(modules[name]))
    dtype = modules["norm"].get_parameter("weight").dtype
    for name, update in sorted(stored.updates.items()):
        module = modules[name]
        weight = next(module.parameters())
        place = weight.device
        tensors = {part: read_tensor(entry, place, dtype) for part, entry in update.items()}
        for part, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise SmaltiError(f"{stored.folder}: {part} of {name} must be finite in {dtype}")
        if weight.is_pinned():  # a layer that is streamed, and its adapter with it
            tensors = {part: tensor.pin_memory() for part, tensor in tensors.items()}
        magnitude = tensors["magnitude"].flatten() if "magnitude" in tensors else None
        adapter = Adapter(
            tensors["A"], tensors["B"], magnitude, scale=stored.config.scale_of(name), label=label
        )
        adapter.strength.fill_(strength)
        attach(module, adapter.requires_grad_(False))


def _check_shapes(
    stored: StoredAdapter, name: str, update: dict[str, Entry], matrix: tuple[int, ...]
) -> None:
    """Raise SmaltiError unless the tensors of an update fit a matrix of this shape and the configuration."""
    out, *columns = matrix
    rank, ones = stored.config.rank_of(name), (1,) * (len(columns) - 1)
    magnitude = (1, out, *ones) if ones else (out,)
    for part, expected in (("A", (rank, *columns)), ("B", (out, rank, *ones)), ("magnitude", magnitude)):
        if part in update and update[part].shape != expected:
            raise SmaltiError(
                f"{stored.folder} is for another base or rank: {part} of {name} must be {expected}, "
                f"not {update[part].shape}"
            )


def load_adapters(
    denoiser: nn.Module, base: Path, adapters: Sequence[StoredAdapter], scales: Sequence[float]
) -> None:
    """Attach adapters to the denoiser of a model folder, the first with the label "0".

    Args:
        denoiser: the denoiser, changed in place.
        base: the model folder that it was read from.
        adapters: the adapters.
        scales: a strength for each.

    Raises:
        SmaltiError: an adapter is for another base.
    """
    check_base({stored.folder: stored.base for stored in adapters}, base)
    for number, (stored, scale) in enumerate(zip(adapters, scales, strict=True)):
        attach_adapter(denoiser, stored, label=str(number), strength=scale)


def check_scales(scale: float | Sequence[float] | None, count: int) -> list[float]:
    """Return a strength for each of so many adapters; None is 1 for all, a number is that for all.

    Raises:
        SmaltiError: a strength is not a number, or there are more or fewer than adapters.
    """
    if scale is not None and count == 0:
        raise SmaltiError("adapter_scale needs an adapter", argument="adapter_scale")
    scales = list(scale) if isinstance(scale, list | tuple) else [1.0 if scale is None else scale] * count
    if len(scales) != count:
        raise SmaltiError(
            f"adapter_scale must have {count} numbers, one an adapter, not {len(scales)}",
            argument="adapter_scale",
        )
    return [check_real("adapter_scale", one, -100, 100) for one in scales]


def check_base(
    stored: Mapping[Path, str | None], base: str | Path, kind: str = "", argument: str | None = None
) -> None:
    """Raise SmaltiError unless files were trained on the model of a folder, as far as they say so.

    Args:
        stored: fingerprint of the base by file or folder, or None where it says nothing.
        base: the model's folder.
        kind: what the files are, in front of their names.
        argument: name of the argument at fault.
    """
    own = base_fingerprint(base) if any(stored.values()) else None
    for path, fingerprint in stored.items():
        if own is not None and fingerprint not in (None, own):
            raise SmaltiError(
                f"{kind} {path} is for another base than {base}, whose weights differ".lstrip(),
                argument=argument,
            )


def base_fingerprint(folder: str | Path) -> str | None:
    """Return a hash of what adapters never change in a model: the names and shapes, the norms, rows of embeddings.

    The dtype of the files has no influence, and a model that adapters were merged into keeps the fingerprint. So does a
    folder that stores its layers in fewer bits. None means that the embeddings are stored so, too.

    Raises:
        SmaltiError: the folder's weights cannot be read.
    """
    digest = hashlib.sha256()
    for name, entry in sorted(read_denoisers(Path(folder)).items()):
        digest.update(f"{name} {entry.shape}\n".encode())
        table = name.endswith(("embed_tokens.weight", "gen_embedding.weight"))
        if isinstance(entry, PackedEntry) and table:
            return None
        if entry.dtype not in FLOATS:
            continue
        if len(entry.shape) == 1:
            digest.update(_bytes(map_tensor(entry)))
        elif len(entry.shape) == 2 and table:
            rows, width = entry.shape
            for row in range(0, rows, max(1, rows // _SAMPLED_ROWS)):
                digest.update(_bytes(map_tensor(entry, row * width, width)))
    return digest.hexdigest()[:32]


def _bytes(values: torch.Tensor) -> bytes:
    """Return numbers as bfloat16 bytes, in which a model's float32 and bfloat16 files agree."""
    return values.to(torch.bfloat16).view(torch.int16).numpy().tobytes()


def save_adapter(
    adapters: Mapping[str, Adapter],
    folder: str | Path,
    shape: AdapterShape,
    *,
    base: str | Path,
    words: Collection[str] = (),
    dtype: torch.dtype | None = None,
) -> None:
    """Write an adapter folder, which peft loads, too.

    Args:
        adapters: the update of each adapted module, such as those of `labelled_adapters`.
        folder: folder to write; it is created if needed.
        shape: kind and size of the adapters.
        base: folder of the model that they belong to.
        words: words of the captions that they were trained on.
        dtype: dtype of the written tensors, or None for their own.

    Raises:
        SmaltiError: there are no adapters, or the folder cannot be written.
    """
    if not adapters:
        raise SmaltiError("an adapter folder needs at least one adapter")
    folder, base = Path(folder), Path(base)
    names = {name.removeprefix(PREFIX).removesuffix(".weight") for name in read_denoisers(base)}
    values = peft_values(shape, adapters, {name for name in names if is_adaptable(name)}, str(base))
    tensors: dict[str, torch.Tensor] = {}
    for name, adapter in adapters.items():
        tensors |= _peft_tensors(name, adapter, dtype)
    fingerprint = base_fingerprint(base)
    metadata = {"format": "pt"} if fingerprint is None else {"format": "pt", _BASE: fingerprint}
    make_folder(folder)
    if words:
        save_words(words, folder)
    with (
        ExitStack() as stack
    ):  # it closes backwards: tensors are renamed first, and the configuration makes them one
        write_json(stack.enter_context(atomic_path(folder / CONFIG)), values)
        try:
            save_file(tensors, stack.enter_context(atomic_path(folder / ADAPTER)), metadata=metadata)
        except (SafetensorError, OSError) as error:
            raise SmaltiError(f"cannot write {folder / ADAPTER}: {error}") from error


def _peft_tensors(name: str, adapter: Adapter, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Return the tensors of a module's adapter under peft's names."""
    prefix = f"base_model.model.{name}.lora_"
    found: dict[str, torch.Tensor] = {"A.weight": adapter.down, "B.weight": adapter.up}
    if adapter.magnitude is not None:
        shape = (1, -1, 1, 1) if adapter.down.ndim == 4 else (-1,)
        found["magnitude_vector"] = adapter.magnitude.view(shape)
    return {
        prefix + part: value.detach().to("cpu", dtype or value.dtype).contiguous()
        for part, value in found.items()
    }
