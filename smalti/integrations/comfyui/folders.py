"""Names of models, adapters and images as the nodes list them; no input holds a path of this machine."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import folder_paths

from smalti.common.checks import quoted
from smalti.errors import SmaltiError
from smalti.storage.loading import BUNDLED_MODELS

KIND = "smalti"
"""Name of the folder below ComfyUI's `models` that holds model folders and adapter folders."""

HUB, NONE = "hub", "none"


def register() -> None:
    """Tell ComfyUI of the folder `models/smalti`; extra_model_paths.yaml may name more."""
    folder_paths.add_model_folder_path(KIND, os.path.join(folder_paths.models_dir, KIND))


def model_names() -> list[str]:
    """Return the names of the bundled models and of the model folders, then "hub"."""
    folders = ["./" + name if name in (*BUNDLED_MODELS, HUB, NONE) else name for name in _with("config.json")]
    return [*BUNDLED_MODELS, *folders, HUB]


def adapter_names() -> list[str]:
    """Return the names of the adapter folders; "none" where there are none."""
    return _with("adapter_config.json") or [NONE]


def _with(file: str) -> list[str]:
    """Return the folders that hold a file, by name with slashes; a model's own subfolders do not count."""
    paths = [PurePosixPath(name.replace("\\", "/")) for name in folder_paths.get_filename_list(KIND)]
    found = {path.parent for path in paths if path.name == file and path.parent.name}
    return sorted(str(path) for path in found if not found & set(path.parents))


def find_model_folder(name: str) -> str | Path:
    """Return what `smalti.load` takes for a name from `model_names`: that of a bundled model, or a folder.

    Raises:
        SmaltiError: there is no such model.
    """
    return name if name in BUNDLED_MODELS else _folder(name, "config.json", "model")


def find_adapter(name: str) -> Path:
    """Return the folder of an adapter from `adapter_names`.

    Raises:
        SmaltiError: there is no such adapter.
    """
    return _folder(name, "adapter_config.json", "adapter")


def _folder(name: str, file: str, argument: str) -> Path:
    relative = str(name).removeprefix("./")
    # ComfyUI drops ".." and absolute parts, so that a workflow reaches no file outside of its folders.
    path = folder_paths.get_full_path(KIND, f"{relative}/{file}") if relative else None
    if path is None:
        raise SmaltiError(
            f"{argument} must be a folder in models/{KIND} with {file}, not {quoted(name)}", argument=argument
        )
    return Path(path).parent


def image_names() -> list[str]:
    """Return the names of the files in ComfyUI's input folder that may be images."""
    folder = Path(folder_paths.get_input_directory())
    if not folder.is_dir():
        return []
    suffixes = (".png", ".jpg", ".jpeg", ".webp")
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in suffixes)


def find_image(name: str) -> Path:
    """Return the file of an image in ComfyUI's folders, such as "scene.png" or "scene.png [output]".

    Raises:
        SmaltiError: there is no such file, or it is outside of these folders.
    """
    path = Path(folder_paths.get_annotated_filepath(str(name))).resolve()
    folders = [
        folder_paths.get_input_directory(),
        folder_paths.get_output_directory(),
        folder_paths.get_temp_directory(),
    ]
    if not any(path.is_relative_to(Path(folder).resolve()) for folder in folders) or not path.is_file():
        raise SmaltiError(
            f"file must be an image in ComfyUI's input folder, not {quoted(name)}", argument="file"
        )
    return path
