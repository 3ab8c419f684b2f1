"""A shard on disk: a Zarr group of columns, read through memory maps, every block of every file with a checksum.

    zarr.json            the group; its attributes hold the checksums of all other files, block by block
    <column>/zarr.json   what Zarr says of a column
    <column>/c/...       one Zarr shard a column: uncompressed, it is the row-major matrix and Zarr's index

Of a shard at an address, a column of codes is left there and read row by row, and the rest is a copy of this form.
Anyone can read it as plain Zarr. Nobody writes into a shard twice: a change makes a new one.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from geoview.errors import IndexCorruptError, StorageFullError
from geoview.files import remove_folder, sync
from geoview.index.remote import Address, Place, RemoteRows, fetched

__all__ = ["BLOCK_ROWS", "Shard", "checksum", "file_checksum", "folder_checksum", "write_shard"]

#: Rows of a Zarr chunk and of a checksum.
BLOCK_ROWS = 4096

_METADATA = "zarr.json"
_CHECKSUMS = "checksums"
_DTYPES = {"uint8": "|u1", "float16": "<f2", "float32": "<f4", "int32": "<i4", "uint32": "<u4", "uint64": "<u8"}
# Zarr's index of a shard: offset and length of each chunk, and a CRC of these.
_ENTRY_BYTES, _CRC_BYTES = 16, 4
_WAY_OUT = "restore it, or build the index anew"
_WAY_OUT_OF_COPIES = "remove it, and it is fetched again"
# What Zarr's readers raise on damaged bytes.
_FAULTS = (OSError, ValueError, KeyError, TypeError, RuntimeError)


class _Sums(NamedTuple):
    """Checksums of a file's blocks, the last of which goes on to its end; 0 bytes a block is all of it in one."""

    block_bytes: int
    blocks: list[str]


class _Column(NamedTuple):
    """What a column's metadata say.

    Attributes:
        file: Of the values, below the shard's folder.
        dtype: Of a value.
        shape: Of all.
        chunk_rows: Rows of a chunk, where the file is the plain matrix; 0 where Zarr has to read it.
    """

    file: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunk_rows: int

    @property
    def n_chunks(self) -> int:
        """Chunks in the file, where it is plain."""
        return -(-self.shape[0] // self.chunk_rows)

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk, where the file is plain."""
        return self.chunk_rows * math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def size_bytes(self) -> int:
        """Length of the file, where it is plain."""
        return self.n_chunks * (self.chunk_bytes + _ENTRY_BYTES) + _CRC_BYTES


class Shard:
    """A shard that is open: columns are mapped when they are first read, blocks compared with their checksums once.

    Attributes:
        place: Where it lies.
        folder: The same on this machine; of a shard at an address, copies of what was read of it.
        rows: Length of each column.
    """

    def __init__(
        self, place: Place, folder: Path, rows: Mapping[str, int], sums: Mapping[str, _Sums], stays: str
    ) -> None:
        self.place, self.folder, self.rows = place, folder, rows
        self._sums, self._stays = sums, stays
        self._columns: dict[str, Any] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._sound: set[tuple[str, int]] = set()

    @classmethod
    def open(cls, place: Place, rows: Mapping[str, int], wanted: str, *, stays: str = "") -> Self:
        """Opens a shard; reads its checksums and what Zarr says of it, and no row.

        Args:
            place: Where it lies. Of a shard at an address, files are copied when they are first read.
            rows: Length that each column must have.
            wanted: Checksum of `zarr.json`.
            stays: A column that is not copied from an address if its file is plain: its rows are read there when they
                are taken.

        Raises:
            IndexCorruptError: A file is missing, or is not what was written.
            IndexUnreachableError: The address does not answer.
        """
        folder, way_out = (place, _WAY_OUT) if isinstance(place, Path) else (place.copy, _WAY_OUT_OF_COPIES)
        try:
            content = fetched(place / _METADATA, lambda copy: file_checksum(copy) == wanted).read_bytes()
            if checksum(content) != wanted:
                raise IndexCorruptError(f"{folder / _METADATA}: is not what was written; {way_out}")
            sums = {name: _Sums(*entry) for name, entry in json.loads(content)["attributes"][_CHECKSUMS].items()}
            for name in (f"{column}/{_METADATA}" for column in rows):
                # Zarr reads past many a damage to its metadata, and fails at others with whatever comes up.
                if name not in sums or [checksum(_here(place, name, sums).read_bytes())] != sums[name].blocks:
                    raise IndexCorruptError(f"{folder / name}: is not what was written; {way_out}")
        except StorageFullError:
            raise
        except OSError as error:
            raise IndexCorruptError(f"{folder}: shard is missing or incomplete ({error}); {way_out}") from error
        if isinstance(place, Path) or not (stays and _described(folder / stays).chunk_rows):
            stays = ""
        return cls(place, folder, rows, sums, stays)

    def read(self, name: str) -> NDArray[Any]:
        """Returns a column, where the file is plain a view of it; not to be written to.

        Raises:
            IndexCorruptError: The file is missing or truncated, or has another number of rows.
        """
        return self.take(name, slice(None))

    def take(self, name: str, rows: slice | NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Returns some rows of a column, by their numbers or in a row.

        Args:
            name: The column.
            rows: Rows that there are.
            out: To write them to, as in NumPy.

        Raises:
            IndexCorruptError: The file is missing or truncated, or has another number of rows.
            IndexError: There is no such row.
        """
        column = self._column(name)
        if out is None and not isinstance(rows, slice) and len(rows) and (np.diff(rows) == 1).all():
            rows = slice(int(rows[0]), int(rows[-1]) + 1)
        try:
            if isinstance(column, np.ndarray) and not isinstance(rows, slice):
                if len(rows) and (rows.min() < 0 or rows.max() >= len(column)):
                    raise IndexError(f"{name} has {len(column)} rows, none {rows.min()} to {rows.max()}")
                # Copies rows whole, as indexing does not; NumPy's own check would copy them once more.
                return column.take(rows, axis=0, out=out, mode="clip")
            sliced = isinstance(rows, slice) or isinstance(column, RemoteRows)
            taken: NDArray[Any] = column[rows] if sliced else column.oindex[rows]
        except IndexCorruptError:
            raise
        except _FAULTS as error:
            raise self._fault(name, f"cannot be read ({error})") from error
        if out is None:
            return taken
        out[:] = taken
        return out

    def is_plain(self, name: str) -> bool:
        """Tells whether a column is the matrix as it lies in its file, and is mapped."""
        return isinstance(self._column(name), np.ndarray)

    def release(self, name: str) -> None:
        """Gives back the memory that holds what was read of a column; it is read again when it is wanted."""
        if name in self._maps:
            self._maps[name].madvise(mmap.MADV_DONTNEED)

    def check(self, name: str, rows: NDArray[np.int64] | None = None) -> None:
        """Compares the blocks that some rows are in, or all of a column, with their checksums.

        Raises:
            IndexCorruptError: A block is not what was written.
        """
        blocks = range(-(-self.rows[name] // BLOCK_ROWS)) if rows is None else np.unique(rows // BLOCK_ROWS).tolist()
        for block in blocks:
            if not self._is_sound(name, block):
                raise self._fault(name, self._damage(name, block))

    def damage(self) -> list[str]:
        """Returns a line for every block of rows that is not what was written."""
        blocks = [(name, block) for name, n in self.rows.items() for block in range(-(-n // BLOCK_ROWS))]
        damaged = [(name, block) for name, block in blocks if not self._is_sound(name, block)]
        return [f"{self._where(name)}: {self._damage(name, block)}" for name, block in damaged]

    def _where(self, name: str) -> Place:
        """Returns where a column is read."""
        return (self.place if name == self._stays else self.folder) / name

    def _fault(self, name: str, what: str) -> IndexCorruptError:
        """Returns the error that a column is not right, with the way out."""
        is_copy = self.folder is not self.place and name != self._stays
        return IndexCorruptError(f"{self._where(name)}: {what}; {_WAY_OUT_OF_COPIES if is_copy else _WAY_OUT}")

    def _damage(self, name: str, block: int) -> str:
        stop = min((block + 1) * BLOCK_ROWS, self.rows[name])
        return f"rows {block * BLOCK_ROWS} to {stop} are not what was written"

    def _is_sound(self, name: str, block: int) -> bool:
        if (name, block) in self._sound:
            return True
        described = _described(self.folder / name)
        source = self._column(name) if name == self._stays else _here(self.place, described.file, self._sums)
        try:
            sums = self._sums[described.file]
            at = block if sums.block_bytes else 0
            goes_on = at == len(sums.blocks) - 1
            start, stop = at * sums.block_bytes, None if goes_on else (at + 1) * sums.block_bytes
            sound = checksum(_part(source, start, stop)) == sums.blocks[at]
        except (OSError, LookupError):
            return False
        if sound:
            self._sound.add((name, block))
        return sound

    def _column(self, name: str) -> Any:
        if name not in self._columns:
            self._columns[name] = self._opened(name)
        return self._columns[name]

    def _opened(self, name: str) -> Any:
        column, n = _described(self.folder / name), self.rows[name]
        if column.shape[0] != n:
            raise self._fault(name, f"has not the {n} rows that the manifest says")
        if not n:
            return np.empty(column.shape, column.dtype)
        if isinstance(self.place, Address) and name == self._stays:
            return RemoteRows.open(self.place / column.file, column.dtype, column.shape, column.size_bytes)
        path = _here(self.place, column.file, self._sums)
        try:
            # Zarr takes a file that is not there, or is empty, for one full of zeros.
            if not path.stat().st_size:
                raise OSError("the file is empty")
            if column.chunk_rows:
                if not _is_matrix(column, path):
                    raise OSError("the file is truncated")
                with path.open("rb") as file:
                    # Private, so that torch takes it for an array like any other; nobody writes.
                    self._maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                values = np.frombuffer(self._maps[name], column.dtype, math.prod(column.shape))
                return values.reshape(column.shape)
            import zarr

            return zarr.open_array(self.folder / name, mode="r", zarr_format=3)
        except _FAULTS as error:
            raise self._fault(name, f"cannot be read ({error})") from error


def write_shard(folder: Path, columns: Mapping[str, NDArray[Any]], *, compressed: bool = False) -> str:
    """Writes a shard, whole and synced: it is under its name or it is not there.

    Args:
        folder: Where to; must not be there.
        columns: Arrays by name, of one or two dimensions.
        compressed: Smaller by some 6 % for codes, and then not mapped but decoded by Zarr, which is much slower.

    Returns:
        The checksum of `zarr.json`, which `Shard.open` asks for.
    """
    import zarr

    part = folder.with_name(f".{folder.name}")
    try:
        group = zarr.open_group(part, mode="w", zarr_format=3)
        sums: dict[str, _Sums] = {}
        for name, values in columns.items():
            _write_column(group, name, values, compressed=compressed)
            sums[f"{name}/{_METADATA}"] = _Sums(0, [checksum((part / name / _METADATA).read_bytes())])
            if len(values):
                file = _described(part / name).file
                block_bytes = 0 if compressed else BLOCK_ROWS * values[:1].nbytes
                n_blocks = 1 if compressed else -(-len(values) // BLOCK_ROWS)
                sums[file] = _sums_of(part / file, block_bytes, n_blocks)
        group.attrs[_CHECKSUMS] = sums
        wanted = checksum((part / _METADATA).read_bytes())
        for path in part.rglob("*"):
            sync(path)
        part.replace(folder)
    except BaseException:
        remove_folder(part)
        raise
    sync(folder.parent)
    return wanted


_digest = partial(hashlib.blake2b, digest_size=8)


def checksum(content: bytes | memoryview) -> str:
    """Returns what tells these bytes from damaged ones."""
    digest = _digest()
    digest.update(content)
    return digest.hexdigest()


def file_checksum(path: Path) -> str | None:
    """Returns the checksum of a file of any size; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _digest).hexdigest()
    except OSError:
        return None


def folder_checksum(folder: Path) -> str:
    """Returns one checksum of the files of a folder, their names included."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return checksum(json.dumps([(path.name, file_checksum(path)) for path in files]).encode())


def _sums_of(path: Path, block_bytes: int, n: int) -> _Sums:
    """Checksums of the n blocks of a file."""
    content = memoryview(path.read_bytes())
    ends = [*((i + 1) * block_bytes for i in range(n - 1)), None]
    return _Sums(block_bytes, [checksum(content[i * block_bytes : end]) for i, end in enumerate(ends)])


def _here(place: Place, name: str, sums: Mapping[str, _Sums]) -> Path:
    """Returns a file of a shard on this machine."""
    return fetched(place / name, lambda copy: name in sums and _holds(copy, sums[name]))


def _holds(path: Path, sums: _Sums) -> bool:
    return _sums_of(path, sums.block_bytes, len(sums.blocks)) == sums


def _part(source: Path | RemoteRows, start: int, stop: int | None) -> bytes:
    """Reads a part of a file."""
    if isinstance(source, RemoteRows):
        return source.address.read_bytes(start, stop)
    with source.open("rb") as file:
        file.seek(start)
        return file.read(-1 if stop is None else stop - start)


def _write_column(group: Any, name: str, values: NDArray[Any], *, compressed: bool) -> None:
    n, tail = len(values), values.shape[1:]
    chunk = max(1, min(n, BLOCK_ROWS))
    # One Zarr shard, uncompressed, empty chunks kept: then the file is the row-major matrix and an index behind it.
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk, *tail),
        shards=(max(1, -(-n // chunk)) * chunk, *tail),
        compressors="auto" if compressed else None,
        config={"write_empty_chunks": True},
    )
    array[:] = values


def _described(folder: Path) -> _Column:
    """Reads a column's metadata; those of any other form than ours are left to Zarr.

    Raises:
        IndexCorruptError: They cannot be read.
    """
    try:
        said = json.loads((folder / _METADATA).read_bytes())
        shape, dtype = tuple(said["shape"]), np.dtype(_DTYPES[said["data_type"]])
        sharding = said["codecs"][0].get("configuration", {})
        plain = (
            tuple(said["chunk_grid"]["configuration"]["chunk_shape"][1:]) == shape[1:]
            and said["chunk_grid"]["configuration"]["chunk_shape"][0] >= shape[0]
            and [codec["name"] for codec in said["codecs"]] == ["sharding_indexed"]
            and tuple(sharding["chunk_shape"][1:]) == shape[1:]
            and [codec["name"] for codec in sharding["codecs"]] == ["bytes"]
            # Single bytes have no order.
            and sharding["codecs"][0].get("configuration", {"endian": "little"}) == {"endian": "little"}
            and sharding.get("index_location", "end") == "end"
        )
        chunk_rows = int(sharding["chunk_shape"][0]) if plain else 0
    except _FAULTS as error:
        raise IndexCorruptError(f"{folder / _METADATA}: cannot be read ({error!r}); {_WAY_OUT}") from error
    return _Column("/".join([folder.name, "c", *["0"] * len(shape)]), dtype, shape, chunk_rows)


def _is_matrix(column: _Column, path: Path) -> bool:
    """Tells whether a plain column's chunks follow one another in its file, none left out."""
    with path.open("rb") as file:
        file.seek(column.n_chunks * column.chunk_bytes)
        index = np.frombuffer(file.read(column.n_chunks * _ENTRY_BYTES), "<u8")
        at_end = len(file.read()) == _CRC_BYTES
    offsets = np.arange(column.n_chunks, dtype=np.uint64) * np.uint64(column.chunk_bytes)
    lengths = np.full_like(offsets, column.chunk_bytes)
    return at_end and np.array_equal(index, np.stack([offsets, lengths], axis=-1).ravel())
