"""Finished jobs and their images: in memory with bounds, or in SQLite and a folder, where they survive a restart."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smalti.common.files import atomic_path, make_folder
from smalti.errors import SmaltiError
from smalti.serving.errors import expired, not_found, not_kept

log = logging.getLogger("smalti.serving")

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, owner TEXT, created REAL, state TEXT, record TEXT);
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, job TEXT, owner TEXT, kind TEXT, created REAL, bytes INTEGER, media_type TEXT, record TEXT
);
CREATE TABLE IF NOT EXISTS gone (id TEXT PRIMARY KEY, since REAL);
CREATE INDEX IF NOT EXISTS jobs_by_time ON jobs (owner, created);
CREATE INDEX IF NOT EXISTS files_by_time ON files (owner, kind, created);
CREATE INDEX IF NOT EXISTS files_by_job ON files (job);
"""
_COLUMNS = "id, job, owner, kind, media_type, record, created"
_STOPPED = {
    "message": "the server stopped before the job was done",
    "type": "server_error",
    "param": None,
    "code": "server_stopped",
}
# Identifiers of deleted things that are remembered, so that they are 410 and not 404.
_MOST_GONE = 10_000


@dataclass(frozen=True)
class File:
    """A file that belongs to a job.

    Attributes:
        id: its identifier.
        job, owner: the job, and who may see it.
        kind: "image" for a result, "source" for an image that was edited, "mask" for its mask.
        media_type: such as "image/png".
        record: more about it, ready for JSON.
        created: seconds since 1970.
    """

    id: str
    job: str
    owner: str
    kind: str
    media_type: str
    record: dict[str, Any]
    created: float

    def describe(self) -> dict[str, Any]:
        """Return it as clients read it, with the addresses of its content and its thumbnail."""
        return {
            **self.record,
            "id": self.id,
            "object": "result",
            "job": self.job,
            "created": self.created,
            "url": f"/api/results/{self.id}/content",
            "thumbnail": f"/api/results/{self.id}/thumbnail",
        }


def _file(row: Any) -> File:
    """Return a file from its row."""
    name, job, owner, kind, media_type, record, created = row
    return File(name, job, owner, kind, media_type, json.loads(record), created)


@contextmanager
def _written() -> Iterator[None]:
    """Turn faults of writing, such as a full disk, into an error that names no path; the log has the reason."""
    try:
        yield
    except (sqlite3.OperationalError, OSError, SmaltiError) as error:
        log.error("jobs and images cannot be kept: %s", error)
        raise not_kept() from error


class Store:
    """Keeps jobs and files, the newest ones first to be found and the oldest ones first to go.

    Args:
        folder: where they are kept, or None for the memory. One server at a time may use a folder.
        most: largest number of jobs, and of results.
        most_bytes: largest sum of the files' sizes.

    What cannot be written is an ApiError: 507.

    Raises:
        SmaltiError: the folder cannot be written, or another server uses it.

    Example:
        >>> store = Store(None, 2, 1000)
        >>> store.save_job("", {"id": "a", "state": "completed", "created": 1.0})
        >>> store.job("a", "")["state"]
        'completed'
    """

    def __init__(self, folder: Path | None, most: int, most_bytes: int) -> None:
        self._folder, self._most, self._most_bytes = folder, most, most_bytes
        self._contents: dict[str, bytes] = {}
        self._lock = threading.RLock()
        if folder is not None:
            make_folder(folder / "files")
        try:
            self._base = sqlite3.connect(
                ":memory:" if folder is None else folder / "smalti.db", check_same_thread=False, timeout=1
            )
            # The lock is held from the first access to the end of the process, also if it is killed.
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.executescript(_TABLES)
        except sqlite3.Error as error:
            reason = "another server uses it" if "locked" in str(error) else str(error)
            raise SmaltiError(f"keep cannot be used: {folder}: {reason}", argument="keep") from error
        if folder is not None:
            self._recover(folder / "files")

    def save_job(self, owner: str, record: dict[str, Any]) -> None:
        """Write what is known of a new job."""
        values = (record["id"], owner, record["created"], record["state"], json.dumps(record))
        with _written(), self._lock, self._base:
            self._base.execute("INSERT INTO jobs VALUES (?, ?, ?, ?, ?)", values)
            self._drop_old()

    def update_job(self, record: dict[str, Any]) -> None:
        """Write what is known of a job over what was known before, unless it was deleted in the meantime."""
        values = (record["state"], json.dumps(record), record["id"])
        with _written(), self._lock, self._base:
            self._base.execute("UPDATE jobs SET state = ?, record = ? WHERE id = ?", values)
            self._drop_old()

    def job(self, name: str, owner: str) -> dict[str, Any]:
        """Return the record of a job.

        Raises:
            ApiError: 410 if it is gone, 404 if there was none, or somebody else owns it.
        """
        record: dict[str, Any] = json.loads(self._row("job", "SELECT record FROM jobs", name, owner)[0])
        return record

    def jobs(self, owner: str, limit: int, before: float | None = None) -> list[dict[str, Any]]:
        """Return records of jobs, the newest first; `before` is a time of creation."""
        with self._lock:
            rows = self._base.execute(
                "SELECT record FROM jobs WHERE owner = ? AND created < ? ORDER BY created DESC LIMIT ?",
                (owner, time.time() + 1e6 if before is None else before, limit),
            ).fetchall()
        return [json.loads(row[0]) for row in rows]

    def delete_job(self, name: str, owner: str) -> None:
        """Delete a job with its files; the errors are those of `job`."""
        self.job(name, owner)
        self.discard_job(name)

    def discard_job(self, name: str) -> None:
        """Delete what there is of a job: its record, its files, or nothing."""
        with _written(), self._lock, self._base:
            for (file,) in self._base.execute("SELECT id FROM files WHERE job = ?", (name,)).fetchall():
                self._drop(file)
            self._base.execute("DELETE FROM jobs WHERE id = ?", (name,))
            self._forget(name)

    def add(self, file: File, content: bytes) -> None:
        """Keep a file: first its content, whole or not at all, then its record."""
        values = (file.id, file.job, file.owner, file.kind, file.created, len(content))
        with _written(), self._lock:
            try:
                if self._folder is None:
                    self._contents[file.id] = content
                else:
                    with atomic_path(self._folder / "files" / file.id) as temporary:
                        temporary.write_bytes(content)
                with self._base:
                    self._base.execute(
                        "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        (*values, file.media_type, json.dumps(file.record)),
                    )
                    self._drop_old()
            except Exception:
                self._remove(file.id)
                raise

    def file(self, name: str, owner: str) -> File:
        """Return a file without its content; the errors are those of `job`."""
        return _file(self._row("result", f"SELECT {_COLUMNS} FROM files", name, owner))

    def content(self, name: str, owner: str) -> tuple[File, bytes]:
        """Return a file with its content; the errors are those of `job`."""
        with self._lock:
            file = self.file(name, owner)
            if self._folder is None:
                return file, self._contents[name]
            try:
                # The name comes from the data base, so that it is one of the server's own.
                return file, (self._folder / "files" / file.id).read_bytes()
            except OSError as error:
                raise expired("result") from error

    def images(self, owner: str, limit: int, before: float | None = None) -> list[File]:
        """Return results, the newest first; `before` is a time of creation."""
        with self._lock:
            rows = self._base.execute(
                f"SELECT {_COLUMNS} FROM files "
                "WHERE owner = ? AND kind = 'image' AND created < ? ORDER BY created DESC LIMIT ?",
                (owner, time.time() + 1e6 if before is None else before, limit),
            ).fetchall()
        return [_file(row) for row in rows]

    def delete(self, name: str, owner: str) -> None:
        """Delete a file; the errors are those of `job`."""
        self.file(name, owner)
        with _written(), self._lock, self._base:
            self._drop(name)

    def close(self) -> None:
        """Close the data base."""
        with self._lock:
            self._base.close()

    def _row(self, what: str, select: str, name: str, owner: str) -> Any:
        with self._lock:
            row = self._base.execute(f"{select} WHERE id = ? AND owner = ?", (name, owner)).fetchone()
            if row is None and self._base.execute("SELECT 1 FROM gone WHERE id = ?", (name,)).fetchone():
                raise expired(what)
        if row is None:
            raise not_found(what, name)
        return row

    def _drop_old(self) -> None:
        """Delete the oldest jobs, results and files beyond the bounds."""
        old = self._base.execute(
            "SELECT id FROM jobs WHERE state NOT IN ('queued', 'running') ORDER BY created DESC LIMIT -1 OFFSET ?",
            (self._most,),
        ).fetchall()
        for (name,) in old:
            self._base.execute("DELETE FROM jobs WHERE id = ?", (name,))
            self._forget(name)
        (count,) = self._base.execute("SELECT COUNT(*) FROM files WHERE kind = 'image'").fetchone()
        (size,) = self._base.execute("SELECT COALESCE(SUM(bytes), 0) FROM files").fetchone()
        if count <= self._most and size <= self._most_bytes:
            return
        for name, kind, length in self._base.execute(
            "SELECT id, kind, bytes FROM files ORDER BY created"
        ).fetchall():
            if count <= self._most and size <= self._most_bytes:
                return
            count, size = count - (kind == "image"), size - length
            self._drop(name)

    def _drop(self, name: str) -> None:
        """Delete a file; its record first, so that none leads nowhere."""
        self._base.execute("DELETE FROM files WHERE id = ?", (name,))
        self._forget(name)
        self._remove(name)

    def _remove(self, name: str) -> None:
        """Delete the content of a file."""
        self._contents.pop(name, None)
        if self._folder is not None:
            (self._folder / "files" / name).unlink(missing_ok=True)

    def _forget(self, name: str) -> None:
        self._base.execute("INSERT OR REPLACE INTO gone VALUES (?, ?)", (name, time.time()))
        self._base.execute(
            "DELETE FROM gone WHERE id IN (SELECT id FROM gone ORDER BY since DESC LIMIT -1 OFFSET ?)",
            (_MOST_GONE,),
        )

    def _recover(self, files: Path) -> None:
        """Mark what a killed server left unfinished as failed, and delete files and records that lack the other."""
        with self._lock, self._base:
            for name, text in self._base.execute(
                "SELECT id, record FROM jobs WHERE state IN ('queued', 'running')"
            ).fetchall():
                files_of = self._base.execute(
                    f"SELECT {_COLUMNS} FROM files WHERE job = ? AND kind = 'image' ORDER BY created", (name,)
                ).fetchall()
                record = {**json.loads(text), "state": "failed", "error": _STOPPED, "position": None}
                record["results"] = [_file(row).describe() for row in files_of]
                self._base.execute(
                    "UPDATE jobs SET state = 'failed', record = ? WHERE id = ?", (json.dumps(record), name)
                )
            known = {row[0] for row in self._base.execute("SELECT id FROM files").fetchall()}
            found = {path.name for path in files.iterdir()}
            for name in known - found:
                self._drop(name)
            for name in found - known:
                (files / name).unlink(missing_ok=True)
