"""An index at an address: what has to be whole is fetched once and kept on this machine, the rest is read in parts.

Copies lie under `$XDG_CACHE_HOME/geoview/indexes/<hash of the address>/`, by their names at the address. Nobody writes
twice into a file of an index but `manifest.json`, which is never kept: a name stands for one content, and copies of
several commits lie side by side.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geoview.errors import ConfigError, IndexCorruptError, IndexUnreachableError
from geoview.files import full_disk_told, write_binary

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Address", "Place", "RemoteRows", "fetched", "local_folder", "place_of"]

# A large file takes longer than the 30 s that obstore gives a request; a server that says nothing for so long is gone.
_CLIENT: Any = {"allow_http": True, "timeout": "6h", "read_timeout": "30s"}
# Rows of a file that are no further apart come in one request, which takes as long as some more bytes do.
_JOINED_BYTES = 2**15
# What follows it in a message of obstore is meant for programmers.
_DETAILS = "\n\nDebug source:"
# Where a virtual machine learns its credentials; asked when the environment tells none.
_ASKED_FOR_CREDENTIALS = "169.254.169.254"
_WAY_IN = (
    "; credentials come from the environment, such as AWS_ACCESS_KEY_ID or GOOGLE_APPLICATION_CREDENTIALS, and "
    "AWS_SKIP_SIGNATURE=true or GOOGLE_SKIP_SIGNATURE=true says that none are needed"
)


@dataclass(frozen=True)
class Address:
    """A file or folder of an index on a server; spelt and read as a path is.

    Attributes:
        index: Address of the index: s3://bucket/name, gs://bucket/name, https://host/name.
        cache: Folder for copies of its files.
        store: What reads it.
        name: Of the file or folder below the index.
    """

    index: str
    cache: Path
    store: ObjectStore = field(compare=False, repr=False)
    name: str = ""

    @classmethod
    def of(cls, index: str) -> Self:
        """Returns the address of an index; asks no server yet.

        Credentials, regions and endpoints are those of the environment, as obstore reads it.

        Raises:
            ConfigError: obstore is not installed.
            IndexUnreachableError: It is no address that obstore knows, or the environment says too little.
        """
        index = index.rstrip("/")
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise ConfigError(f"{index}: needs obstore to be read; run pip install 'geoview[remote]'") from error
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        key = hashlib.blake2b(index.encode(), digest_size=8).hexdigest()
        with _told(index):
            store = from_url(index, client_options=_CLIENT)
        return cls(index, home / "geoview" / "indexes" / key, store)

    def __truediv__(self, name: str | Path) -> Self:
        # Names come from a server's manifest, and copies are written under them.
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise IndexCorruptError(f"{self}: names a file outside of the index, {name}; do not use it")
        return replace(self, name=f"{self.name}/{name}".lstrip("/"))

    def __str__(self) -> str:
        return f"{self.index}/{self.name}".rstrip("/")

    @property
    def parent(self) -> Self:
        """Folder that it is in."""
        return replace(self, name=self.name.rpartition("/")[0])

    @property
    def copy(self) -> Path:
        """Where its copy lies, once it was fetched."""
        return self.cache / self.name

    def fetch(self, to: Path, is_sound: Callable[[Path], bool]) -> None:
        """Copies the file: it is under its name, whole and sound, or it is not there.

        Args:
            to: File to write.
            is_sound: Tells whether a file is what was written.

        Raises:
            IndexCorruptError: It is missing, or not what was written.
            IndexUnreachableError: It cannot be read.
            ConfigError: `to` cannot be written.
        """
        import obstore

        try:
            to.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{to.parent}: cannot be written ({error.strerror}); let XDG_CACHE_HOME name a folder that can"
            ) from error
        with self._asked(), full_disk_told(to), write_binary(to) as file:
            for part in obstore.get(self.store, self.name):
                file.write(part)
            file.flush()
            if not is_sound(Path(file.name)):
                raise IndexCorruptError(f"{self}: is not what was written; restore it, or build the index anew")

    def read_bytes(self, start: int = 0, stop: int | None = None) -> bytes:
        """Reads the file, or a part of it.

        Raises:
            FileNotFoundError: It is not there.
            IndexUnreachableError: It cannot be read.
        """
        import obstore

        part: Any = {"range": {"offset": start} if stop is None else (start, stop)}
        with _told(str(self)):
            return bytes(obstore.get(self.store, self.name, options=part if start or stop else None).bytes())

    def size_bytes(self) -> int:
        """Asks for the length of the file; raises what `read_parts` raises."""
        import obstore

        with self._asked():
            return obstore.head(self.store, self.name)["size"]

    def read_parts(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> list[memoryview]:
        """Reads parts of the file, several at a time.

        Args:
            starts: (n,) their first bytes, ascending.
            stops: (n,) the bytes after their last, each below the next start.

        Raises:
            IndexCorruptError: The file is missing or truncated.
            IndexUnreachableError: It cannot be read.
        """
        import obstore

        with self._asked():
            # Apart, each is a request. obstore would also join them, but panics if the end of a joined one is missing.
            found = obstore.get_ranges(self.store, self.name, starts=starts.tolist(), ends=stops.tolist(), coalesce=0)
        parts = [memoryview(part) for part in found]
        if [len(part) for part in parts] != (stops - starts).tolist():
            raise IndexCorruptError(f"{self}: is truncated; restore it, or build the index anew")
        return parts

    @contextmanager
    def anew(self) -> Iterator[Self]:
        """Yields the same address without any copies of before."""
        with TemporaryDirectory() as folder:
            yield replace(self, cache=Path(folder))

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """As `_told`, for files that a manifest names."""
        try:
            with _told(str(self)):
                yield
        except FileNotFoundError as error:
            raise IndexCorruptError(
                f"{self}: is missing; if the index was changed there just now, ask again, else restore it"
            ) from error


#: Where an index, or a file of it, lies.
Place = Path | Address


def place_of(path: str | Place) -> Place:
    """Returns where an index lies: what has `://` in it is an address; raises what `Address.of` raises."""
    if isinstance(path, Address):
        return path
    return Address.of(str(path)) if "://" in str(path) else Path(path)


def local_folder(path: str | Place) -> Path:
    """Returns the folder of an index that has to lie on this machine, since it is written, or copied file by file.

    Raises:
        ConfigError: It is an address.
    """
    if isinstance(path, Address) or "://" in str(path):
        raise ConfigError(f"{path}: an index at an address can only be searched; copy it here first")
    return Path(path)


def fetched(place: Place, is_sound: Callable[[Path], bool]) -> Path:
    """Returns a file on this machine: itself, or a copy that was compared with its checksum when it was fetched.

    Args:
        place: Where it lies.
        is_sound: Tells whether a file is what was written.

    Raises:
        IndexCorruptError: It is missing at its address, or not what was written.
        IndexUnreachableError: It cannot be read there.
    """
    if isinstance(place, Path):
        return place
    if not place.copy.exists():
        place.fetch(place.copy, is_sound)
    return place.copy


@dataclass(frozen=True)
class RemoteRows:
    """A row-major matrix that stays at its address: rows are read when they are taken, and not kept.

    Zarr would read whole chunks, thousands of rows for one.

    Attributes:
        address: Of a file that begins with the matrix.
        dtype: Of a value.
        shape: Of all.
    """

    address: Address
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def open(cls, address: Address, dtype: np.dtype[Any], shape: tuple[int, ...], size_bytes: int) -> Self:
        """Makes sure that the file is there and has its length.

        Raises:
            IndexCorruptError: It is missing, or has another length.
            IndexUnreachableError: It cannot be read.
        """
        if address.size_bytes() != size_bytes:
            raise IndexCorruptError(f"{address}: is truncated or changed; restore it, or build the index anew")
        return cls(address, dtype, shape)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Reads rows, in any order; those between two that lie close together are read as well, in vain."""
        numbers = np.arange(self.shape[0])[rows]
        if not len(numbers):
            return np.empty((0, *self.shape[1:]), self.dtype)
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        wanted, at = np.unique(numbers, return_inverse=True)
        last_of_run = np.flatnonzero((np.diff(wanted) - 1) * row_bytes > _JOINED_BYTES)
        starts, stops = wanted[np.append(0, last_of_run + 1)], wanted[np.append(last_of_run, -1)] + 1
        parts = self.address.read_parts(starts * row_bytes, stops * row_bytes)
        read = np.concatenate([np.frombuffer(part, self.dtype) for part in parts]).reshape(-1, *self.shape[1:])
        # Where each run begins in what was read, and each row in its run.
        begins = np.cumsum(stops - starts) - (stops - starts)
        run = np.searchsorted(starts, wanted, "right") - 1
        taken: NDArray[Any] = read[(begins[run] + wanted - starts[run])[at]]
        return taken


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Turns what obstore raises into a line that names the address.

    Raises:
        FileNotFoundError: There is no such file.
        IndexUnreachableError: Anything else.
    """
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except BaseError as error:
        reason = " ".join(str(error).partition(_DETAILS)[0].split())
        denied = isinstance(error, PermissionDeniedError | UnauthenticatedError) or _ASKED_FOR_CREDENTIALS in reason
        raise IndexUnreachableError(f"{address}: cannot be read ({reason}){_WAY_IN if denied else ''}") from error
