"""Models on the Hugging Face hub: fetching the needed files, and no others, into the hub's cache.

`huggingface_hub` does the work: its cache, offline mode (HF_HUB_OFFLINE), login, progress bars, resumed downloads.
It is imported only when a hub id is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import Any

from smalti.common.files import read_json
from smalti.errors import SmaltiError
from smalti.model.config import MODEL_TYPE
from smalti.model.words import WORDS_FILE
from smalti.storage.entries import Entry, fold
from smalti.storage.folder import image_tokenizer_name
from smalti.storage.headers import (
    INDEX,
    WEIGHTS,
    is_denoisers,
    is_image_tokenizers,
    needed_files,
    read_header,
    read_index,
)

PARTS = ("denoiser", "image_tokenizer", "text_tokenizer")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_hub_id(model: object) -> bool:
    """Return whether a name has the form of a hub id: organisation/name."""
    return isinstance(model, str) and _ID.fullmatch(model) is not None and ".." not in model


def fetch(
    repo: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    parts: Collection[str] = PARTS,
) -> Path:
    """Fetch the files of a model into the hub's cache, without shards that hold nothing needed.

    Args:
        repo: organisation/name.
        revision: a branch, a tag or a commit; None is the main branch.
        local_files_only: whether to stay off the network.
        parts: parts of a model that will be read, from `PARTS`; without any, only files such as `config.json`.

    Returns:
        The folder of that revision in the cache; all files in it belong to one commit.

    Raises:
        SmaltiError: a file is neither in the cache nor available on the hub.
    """
    files = _Repository(repo, revision, local_files_only)
    folder = files.folder
    if read_json(folder / "config.json").get("model_type") != MODEL_TYPE:
        # An image tokenizer by itself, or a folder that its reader refuses later.
        if "image_tokenizer" in parts:
            files.get(WEIGHTS)
        return folder
    inner = PurePosixPath(image_tokenizer_name(folder))
    beside = files.find(str(inner / "config.json")) is not None
    needed: list[Callable[[str], bool]] = []
    if "denoiser" in parts:
        needed.append(is_denoisers)
    if "image_tokenizer" in parts:
        if beside:
            files.get(str(inner / WEIGHTS))
        else:
            needed.append(is_image_tokenizers)
    if "text_tokenizer" in parts:
        files.get("tokenizer.json")
        files.find(WORDS_FILE)
    index = files.find(INDEX)
    if needed:
        names = [WEIGHTS]
        if index is not None:
            names = needed_files(read_index(index), lambda tensor: any(test(tensor) for test in needed))
        for name in names:
            files.get(name)
    return folder


def remote_headers(
    repo: str, folder: Path, *, local_files_only: bool = False
) -> Callable[[Path, Callable[[str], bool] | None], dict[str, Entry]]:
    """Return a reader of headers for `smalti.storage.inspection.inspect` that needs no weights.

    Files in the cache are read there. For other files only the header comes from the hub, and offsets count from the
    end of the header.

    Args:
        repo: organisation/name.
        revision: a branch, a tag or a commit; None is the main branch.
        folder: result of `fetch` for the same repository.
        local_files_only: whether to stay off the network.
    """
    files = _Repository(repo, folder.name, local_files_only)

    def read(place: Path, needed: Callable[[str], bool] | None = None) -> dict[str, Entry]:
        inner = PurePosixPath(*place.relative_to(folder).parts)
        index = files.find(str(inner / INDEX))
        places = {"": WEIGHTS} if index is None else read_index(index)
        required = needed_files(places, None if index is None else needed)
        entries: dict[str, Entry] = {}
        for name in needed_files(places, None):
            try:
                entries |= files.header(str(inner / name))
            except SmaltiError:
                if name in required:
                    raise
        return fold(entries)

    return read


class _Repository:
    """The files of one revision of a model on the hub.

    Attributes:
        folder: folder of the revision in the cache, once `config.json` is there.
    """

    def __init__(self, repo: str, revision: str | None, local_files_only: bool) -> None:
        self.repo, self.revision, self.local_files_only = repo, revision, local_files_only
        self.folder = self.get("config.json").parent
        # A branch may move while files are fetched one by one, so the first file's commit decides for the others.
        self.revision = self.folder.name

    def get(self, name: str) -> Path:
        """Return a file's path in the cache, after fetching it if needed."""
        import huggingface_hub

        return Path(
            self._try(
                name,
                lambda: huggingface_hub.hf_hub_download(
                    self.repo, name, revision=self.revision, local_files_only=self.local_files_only
                ),
            )
        )

    def find(self, name: str) -> Path | None:
        """Return a file's path as `get` does, or None if the model has no such file."""
        from huggingface_hub.errors import EntryNotFoundError

        try:
            return self.get(name)
        except SmaltiError as error:
            if isinstance(error.__cause__, EntryNotFoundError):
                return None
            raise

    def header(self, name: str) -> dict[str, Entry]:
        """Return the tensors of a safetensors file, from the cache or else from its header on the hub."""
        import huggingface_hub

        cached = huggingface_hub.try_to_load_from_cache(self.repo, name, revision=self.revision)
        if isinstance(cached, str):
            return read_header(Path(cached))
        if self.local_files_only or huggingface_hub.constants.HF_HUB_OFFLINE:
            self.get(name)  # which says what is wrong
        found = self._try(
            name,
            lambda: huggingface_hub.HfApi().parse_safetensors_file_metadata(
                self.repo, name, revision=self.revision
            ),
        )
        return {
            tensor: Entry(
                self.folder / name,
                tuple(info.shape),
                str(info.dtype),
                info.data_offsets[0],
                info.data_offsets[1] - info.data_offsets[0],
            )
            for tensor, info in found.tensors.items()
        }

    def _try(self, name: str, action: Callable[[], Any]) -> Any:
        """Return the result of `action` on a file; errors are one line that names the model."""
        from huggingface_hub import constants, errors

        at = f" at revision {self.revision}" if self.revision else ""
        try:
            return action()
        except errors.LocalEntryNotFoundError as error:
            offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
            reason = "local_files_only was asked for" if self.local_files_only else offline
            raise SmaltiError(
                f"{self.repo}{at}: {name} is not in the Hugging Face cache {constants.HF_HUB_CACHE}, and {reason}: "
                "fetch the model once with a connection, or name a folder"
            ) from error
        except errors.EntryNotFoundError as error:
            raise SmaltiError(f"{self.repo}{at} on the Hugging Face hub has no file {name}") from error
        except errors.RevisionNotFoundError as error:
            raise SmaltiError(
                f"{self.repo} on the Hugging Face hub has no revision {self.revision}"
            ) from error
        except errors.GatedRepoError as error:
            raise SmaltiError(
                f"{self.repo} on the Hugging Face hub is only for those who accepted its terms there and are logged "
                "in (hf auth login)"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise SmaltiError(
                f"there is no folder {self.repo}, and the Hugging Face hub has no model of that name (one that is "
                "private needs hf auth login)"
            ) from error
        except Exception as error:  # a network and its libraries raise errors of any kind
            lines = str(error).strip().splitlines()
            raise SmaltiError(
                f"{self.repo}{at}: {name} cannot be fetched from the Hugging Face hub: "
                f"{lines[0] if lines else type(error).__name__}"
            ) from error
