"""Models on the Hugging Face hub: fetching the files that are needed, and no others, into the hub's own cache.

`huggingface_hub` does the work: its cache, offline mode (HF_HUB_OFFLINE), login, progress bars, resumed downloads.
It is imported when a hub id was named and not before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import Any

from smalti.common.files import read_json
from smalti.errors import SmaltiError
from smalti.model.config import MODEL_TYPE
from smalti.storage.folder import WORDS, image_tokenizer_name
from smalti.storage.headers import (
    INDEX,
    WEIGHTS,
    Entry,
    is_denoisers,
    is_image_tokenizers,
    needed_files,
    read_header,
    read_index,
)

PARTS = ("denoiser", "image_tokenizer", "text_tokenizer")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_hub_id(model: object) -> bool:
    """Whether this looks like a name on the hub: text of the form organisation/name."""
    return isinstance(model, str) and _ID.fullmatch(model) is not None and ".." not in model


def fetch(
    repo: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    parts: Collection[str] = PARTS,
) -> Path:
    """See to it that the files of a model are in the hub's cache.

    Of the weights, shards that hold nothing needed are not fetched.

    Args:
        repo: organisation/name.
        revision: a branch, a tag or a commit; None is the main branch.
        local_files_only: never use the network.
        parts: of a model, which of `PARTS` will be read; none is `config.json` and the like only.

    Returns:
        The folder of that revision in the cache; all files in it are of one commit.

    Raises:
        SmaltiError: a file is neither in the cache nor to be had.
    """
    files = _Repository(repo, revision, local_files_only)
    folder = files.folder
    if read_json(folder / "config.json").get("model_type") != MODEL_TYPE:
        # An image tokenizer by itself, or something that whoever reads the folder will refuse.
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
        files.find(WORDS)
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
    """A reader of headers for `smalti.storage.inspection.inspect` that does without the weights.

    Files that are in the cache are read there; of others only the header comes from the hub. Offsets are then
    counted from the end of the header.

    Args:
        repo: organisation/name.
        folder: what `fetch` gave for it.
        local_files_only: never use the network.
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
        return entries

    return read


class _Repository:
    """Files of one revision of a model on the hub.

    Attributes:
        folder: where the cache keeps it, once `config.json` is there.
    """

    def __init__(self, repo: str, revision: str | None, local_files_only: bool) -> None:
        self.repo, self.revision, self.local_files_only = repo, revision, local_files_only
        self.folder = self.get("config.json").parent
        # A branch may move while files are fetched one by one: the rest is of the commit that the first is of.
        self.revision = self.folder.name

    def get(self, name: str) -> Path:
        """A file's place in the cache, where it is put if it is not there yet."""
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
        """The same, or None if the model has no such file, as far as can be known without a network."""
        from huggingface_hub.errors import EntryNotFoundError

        try:
            return self.get(name)
        except SmaltiError as error:
            if isinstance(error.__cause__, EntryNotFoundError):
                return None
            raise

    def header(self, name: str) -> dict[str, Entry]:
        """The tensors of a safetensors file, from the cache or else by reading its header on the hub."""
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
        """The result of `action` on a file, its errors in one line that names the model."""
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
        except Exception as error:  # what a network and its libraries can raise has no end
            reason = str(error).strip().splitlines()
            raise SmaltiError(
                f"{self.repo}{at}: {name} cannot be fetched from the Hugging Face hub: "
                f"{reason[0] if reason else type(error).__name__}"
            ) from error
