"""A shard on disk: a Zarr group of columns, read through memory maps, every block of every file with a checksum.

    zarr.json            the group; its attributes hold the checksums of all other files, block by block
    <column>/zarr.json   what Zarr says of a column
    <column>/c/...       one Zarr shard a column: uncompressed, it is the row-major matrix and Zarr's index

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

from geoview.errors import IndexCorruptError
from geoview.files import remove_folder, sync

__all__ = ["BLOCK_ROWS", "Shard", "checksum", "file_checksum", "folder_checksum", "write_shard"]

#: Rows of a Zarr chunk and of a checksum.
BLOCK_ROWS = 4096

_METADATA = "zarr.json"
_CHECKSUMS = "checksums"
_DTYPES = {"uint8": "|u1", "float16": "<f2", "float32": "<f4", "int32": "<i4", "uint32": "<u4", "uint64": "<u8"}
# Zarr's index of a shard: offset and length of each chunk, and a CRC of these.
_ENTRY_BYTES, _CRC_BYTES = 16, 4
_WAY_OUT = "restore it, or build the index anew"
# What Zarr's readers raise on damaged bytes.
_FAULTS = (OSError, ValueError, KeyError, TypeError, RuntimeError)


class _Sums(NamedTuple):
    """Checksums of a file's blocks, the last of which goes on to its end; 0 bytes a block is all of it in one."""

    block_bytes: int
    blocks: list[str]


class _Column(NamedTuple):
    """What a column's metadata say.

    Attributes:
        path: File of the values.
        dtype: Of a value.
        shape: Of all.
        chunk_rows: Rows of a chunk, where the file is the plain matrix; 0 where Zarr has to read it.
    """

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunk_rows: int


class Shard:
    """A shard that is open: columns are mapped when they are first read, blocks compared with their checksums once.

    Attributes:
        folder: Where it lies.
        rows: Length of each column.
    """

    def __init__(self, folder: Path, rows: Mapping[str, int], sums: Mapping[str, _Sums]) -> None:
        self.folder, self.rows = folder, rows
        self._sums = sums
        self._columns: dict[str, Any] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._sound: set[tuple[str, int]] = set()

    @classmethod
    def open(cls, folder: Path, rows: Mapping[str, int], wanted: str) -> Self:
        """Opens a shard; reads its checksums and what Zarr says of it, and no row.

        Args:
            folder: Where it lies.
            rows: Length that each column must have.
            wanted: Checksum of `zarr.json`.

        Raises:
            IndexCorruptError: A file is missing, or is not what was written.
        """
        try:
            content = (folder / _METADATA).read_bytes()
            if checksum(content) != wanted:
                raise IndexCorruptError(f"{folder / _METADATA}: is not what was written; {_WAY_OUT}")
            sums = {name: _Sums(*entry) for name, entry in json.loads(content)["attributes"][_CHECKSUMS].items()}
            for name in (f"{column}/{_METADATA}" for column in rows):
                # Zarr reads past many a damage to its metadata, and fails at others with whatever comes up.
                if name not in sums or [checksum((folder / name).read_bytes())] != sums[name].blocks:
                    raise IndexCorruptError(f"{folder / name}: is not what was written; {_WAY_OUT}")
        except OSError as error:
            raise IndexCorruptError(f"{folder}: shard is missing or incomplete ({error}); {_WAY_OUT}") from error
        return cls(folder, rows, sums)

    def read(self, name: str) -> NDArray[Any]:
        """Returns a column, where the file is plain a view of it; not to be written to.

        Raises:
            IndexCorruptError: The file is missing or truncated, or has another number of rows.
        """
        return self.take(name, slice(None))

    def take(self, name: str, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Returns some rows of a column, by their numbers or in a row.

        Raises:
            IndexCorruptError: The file is missing or truncated, or has another number of rows.
        """
        if name not in self._columns:
            self._columns[name] = self._opened(name)
        column = self._columns[name]
        if not isinstance(rows, slice) and len(rows) and (np.diff(rows) == 1).all():
            rows = slice(int(rows[0]), int(rows[-1]) + 1)
        try:
            taken: NDArray[Any] = (
                column[rows] if isinstance(rows, slice) or isinstance(column, np.ndarray) else column.oindex[rows]
            )
        except _FAULTS as error:
            raise IndexCorruptError(f"{self.folder / name}: cannot be read ({error}); {_WAY_OUT}") from error
        return taken

    def is_plain(self, name: str) -> bool:
        """Tells whether a column is the matrix as it lies in its file, and is mapped."""
        return isinstance(self.read(name), np.ndarray) and (name in self._maps or not self.rows[name])

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
                raise IndexCorruptError(f"{self._damage(name, block)}; {_WAY_OUT}")

    def damage(self) -> list[str]:
        """Returns a line for every block of rows that is not what was written."""
        blocks = [(name, block) for name, n in self.rows.items() for block in range(-(-n // BLOCK_ROWS))]
        return [self._damage(name, block) for name, block in blocks if not self._is_sound(name, block)]

    def _damage(self, name: str, block: int) -> str:
        stop = min((block + 1) * BLOCK_ROWS, self.rows[name])
        return f"{self.folder / name}: rows {block * BLOCK_ROWS} to {stop} are not what was written"

    def _is_sound(self, name: str, block: int) -> bool:
        if (name, block) in self._sound:
            return True
        try:
            path = _described(self.folder / name).path
            sums = self._sums[str(path.relative_to(self.folder))]
            with path.open("rb") as file:
                at = block if sums.block_bytes else 0
                file.seek(at * sums.block_bytes)
                goes_on = at == len(sums.blocks) - 1
                sound = checksum(file.read(-1 if goes_on else sums.block_bytes)) == sums.blocks[at]
        except (OSError, LookupError):
            return False
        if sound:
            self._sound.add((name, block))
        return sound

    def _opened(self, name: str) -> Any:
        column, n = _described(self.folder / name), self.rows[name]
        if column.shape[0] != n:
            raise IndexCorruptError(f"{self.folder / name}: has not the {n} rows that the manifest says; {_WAY_OUT}")
        if not n:
            return np.empty(column.shape, column.dtype)
        try:
            # Zarr takes a file that is not there, or is empty, for one full of zeros.
            if not column.path.stat().st_size:
                raise OSError("the file is empty")
            if column.chunk_rows:
                if not _is_matrix(column):
                    raise OSError("the file is truncated")
                with column.path.open("rb") as file:
                    # Private, so that torch takes it for an array like any other; nobody writes.
                    self._maps[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                values = np.frombuffer(self._maps[name], column.dtype, math.prod(column.shape))
                return values.reshape(column.shape)
            import zarr

            return zarr.open_array(self.folder / name, mode="r", zarr_format=3)
        except _FAULTS as error:
            raise IndexCorruptError(f"{column.path}: cannot be read ({error}); {_WAY_OUT}") from error


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
                path = _described(part / name).path
                sums[str(path.relative_to(part))] = _sums_of(path, 0 if compressed else values[:1].nbytes, len(values))
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


def _sums_of(path: Path, row_bytes: int, rows: int) -> _Sums:
    """Checksums of a column's file by blocks of rows; of all of it in one where rows have no length in bytes."""
    content = memoryview(path.read_bytes())
    step = BLOCK_ROWS * row_bytes
    n = -(-rows // BLOCK_ROWS) if step else 1
    return _Sums(step, [checksum(content[i * step : (i + 1) * step if i < n - 1 else None]) for i in range(n)])


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
    return _Column(folder.joinpath("c", *["0"] * len(shape)), dtype, shape, chunk_rows)


def _is_matrix(column: _Column) -> bool:
    """Tells whether a plain column's chunks follow one another in its file, none left out."""
    chunks = -(-column.shape[0] // column.chunk_rows)
    chunk_bytes = column.chunk_rows * math.prod(column.shape[1:]) * column.dtype.itemsize
    with column.path.open("rb") as file:
        file.seek(chunks * chunk_bytes)
        index = np.frombuffer(file.read(chunks * _ENTRY_BYTES), "<u8")
        at_end = len(file.read()) == _CRC_BYTES
    offsets = np.arange(chunks, dtype=np.uint64) * np.uint64(chunk_bytes)
    return at_end and np.array_equal(index, np.stack([offsets, np.full_like(offsets, chunk_bytes)], axis=-1).ravel())
