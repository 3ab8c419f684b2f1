"""Files that are there whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from geoview.errors import BusyError, StorageFullError

__all__ = [
    "claimed",
    "exclusive",
    "full_disk_told",
    "in_turn",
    "remove_folder",
    "shared",
    "sync",
    "write_binary",
    "write_json",
    "write_text",
]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def write_text(path: Path) -> Iterator[TextIO]:
    """Opens a text file that appears under its name when it is complete and synced."""
    with _whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        yield file
        _flush(file)


@contextmanager
def write_binary(path: Path) -> Iterator[IO[bytes]]:
    """Opens a binary file that appears under its name when it is complete and synced."""
    with _whole(path) as part, part.open("wb") as file:
        yield file
        _flush(file)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole and synced."""
    with write_text(path) as file:
        json.dump(content, file, indent=1, allow_nan=False)
        file.write("\n")


def sync(path: Path) -> None:
    """Waits until a file or folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Removes a folder that nothing names any more; what cannot be removed is only wasted space."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds a folder for one writer; the kernel lets go when the process dies, however it dies.

    Raises:
        BusyError: Another process holds it, alone or with others.
    """
    with _locked(folder, fcntl.LOCK_EX):
        yield


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise BusyError(f"{folder}: process {holder} is writing there; wait for it, or end it") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Holds a folder together with all who share it; whoever wants it alone is told to wait.

    Raises:
        BusyError: Another process holds it alone.
    """
    with _locked(folder, fcntl.LOCK_SH):
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Holds a file alone, after waiting for whoever holds it now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Tries to be the one who holds a file, and yields whether that succeeded; never waits.

    Across hosts this is as good as the file system's locks: where it has none, two may both believe it.
    """
    try:
        file = path.open("a")
    except FileNotFoundError:  # its folder is gone
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def full_disk_told(where: Path) -> Iterator[None]:
    """Turns a full disk into an error that says what to do.

    Raises:
        StorageFullError: The disk, a quota or a file size limit is reached.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError(
                f"{where}: disk full ({error.strerror}); what is finished is kept: "
                "free some space and run the same command again"
            ) from error
        raise


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Yields a name to write to, which becomes `path` unless an exception comes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)


def _flush(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
