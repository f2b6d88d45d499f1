"""LoRA adapters under the names of diffusers' methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smalti.common.checks import check_real, quoted
from smalti.errors import SmaltiError
from smalti.model.denoiser import Denoiser
from smalti.model.lora import adapted_layers, all_adapters, remove_adapters, set_strength
from smalti.storage.adapters import attach_adapter, check_base, read_adapter


class AdapterMethods:
    """Methods of a pipeline that has a `denoiser` and, if it was read from there, a `folder`."""

    denoiser: Denoiser
    folder: Path | None

    def load_lora_weights(self, adapter: str | Path, *, adapter_name: str | None = None) -> None:
        """Add the adapter of a folder in peft's layout, as `smalti train` and peft write them.

        Args:
            adapter: folder with `adapter_config.json` and `adapter_model.safetensors`.
            adapter_name: its name for `set_adapters`; None is that of its folder.

        Raises:
            SmaltiError: the folder is no adapter, or one of another base; the name is in use.
        """
        if adapter_name is not None and not (isinstance(adapter_name, str) and adapter_name):
            raise SmaltiError(
                f"adapter_name must be text, not {quoted(adapter_name)}", argument="adapter_name"
            )
        stored = read_adapter(adapter)
        name = stored.folder.resolve().name if adapter_name is None else adapter_name
        if name in self.get_list_adapters():
            raise SmaltiError(
                f"adapter_name must be new, not {quoted(name)}, which is loaded", argument="adapter_name"
            )
        if self.folder is not None:
            check_base({stored.folder: stored.base}, self.folder, argument="adapter")
        attach_adapter(self.denoiser, stored, label=name)

    def set_adapters(
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None
    ) -> None:
        """Choose the adapters that take part, and their weights; the others change nothing.

        Args:
            adapter_names: one name or several.
            adapter_weights: factor of what each changes: one number for all, or one a name; None is 1.

        Raises:
            SmaltiError: a name that is not loaded, or another number of weights.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        if not isinstance(names, list | tuple):
            raise SmaltiError(
                f"adapter_names must be a name or a list of names, not {quoted(names)}",
                argument="adapter_names",
            )
        known = self.get_list_adapters()
        for name in names:
            if name not in known:
                raise SmaltiError(
                    f"adapter_names must be among {', '.join(known) or 'none'}, not {quoted(name)}",
                    argument="adapter_names",
                )
        given: Any = 1.0 if adapter_weights is None else adapter_weights
        weights = list(given) if isinstance(given, list | tuple) else [given] * len(names)
        if len(weights) != len(names):
            raise SmaltiError(
                f"adapter_weights must have {len(names)} numbers, one a name, not {len(weights)}",
                argument="adapter_weights",
            )
        chosen = dict(
            zip(names, (check_real("adapter_weights", one, -100, 100) for one in weights), strict=True)
        )
        for name in known:
            set_strength(self.denoiser, name, chosen.get(name, 0.0))

    def get_list_adapters(self) -> list[str]:
        """Return the names of the loaded adapters, the first loaded first."""
        return list(dict.fromkeys(adapter.label for adapter in all_adapters(self.denoiser)))

    def get_active_adapters(self) -> list[str]:
        """Return the names of the adapters that change something."""
        active = [one.label for one in all_adapters(self.denoiser) if float(one.strength)]
        return list(dict.fromkeys(active))

    def disable_lora(self) -> None:
        """Let no adapter change anything, until `set_adapters` chooses again."""
        for name in self.get_list_adapters():
            set_strength(self.denoiser, name, 0.0)

    def unload_lora_weights(self) -> None:
        """Remove all adapters."""
        for _, layer in list(adapted_layers(self.denoiser)):
            remove_adapters(layer)
