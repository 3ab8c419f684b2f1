"""The rows of an index, by their number in S2 order, whichever shard they lie in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from geoview.geo import cells
from geoview.index import store
from geoview.index.manifest import Manifest
from geoview.index.remote import Place
from geoview.index.shards import Shard

__all__ = ["Blocks", "Selection", "Table", "n_rows"]

# Rows taken at once: 16,384 x 1,024 in half precision are 32 MB.
_READ_ROWS = 16_384
# Codes that may stay mapped after they were looked up, unless memory is limited: to map a row again takes longer than
# to score it. Linux maps up to as many bytes around each (mostly 64 KB; since 6.16, all that the disk's cache holds in
# one piece).
_ROOM_BYTES, _AROUND_BYTES = 2**30, 2**21
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Shards that are read at once at an address, where time goes into waiting for answers.
_AT_ONCE = 16
_Number = TypeVar("_Number", np.uint64, np.int32)
S = TypeVar("S")
T = TypeVar("T")
#: (row numbers, codes)
Blocks = Iterator[tuple[NDArray[np.int64], NDArray[np.floating]]]
#: (shard, its rows) each, rows ascending.
Selection = list[tuple[int, slice | NDArray[np.int64]]]


def n_rows(selection: Selection) -> int:
    """Returns how many rows are selected."""
    return sum(rows.stop - rows.start if isinstance(rows, slice) else len(rows) for _, rows in selection)


class Table:
    """Cells, dates and aerial codes of the rows of an index; shards are opened when something of them is asked for.

    What tells where a row lies is always compared with its checksums: a wrong cell would be a wrong place.

    Attributes:
        shards: What the manifest says of them, in S2 order.
        first_row: (S + 1,) row at which each of the S shards begins, and how many rows there are.
        everything: All rows.
        room_bytes: Memory for codes that are looked up here and there.
    """

    def __init__(self, path: Place, manifest: Manifest, *, checked: bool) -> None:
        """Opens nothing yet.

        Args:
            path: Where the index lies.
            manifest: Its shards are read.
            checked: Compare codes with their checksums, too.
        """
        self.shards = manifest.shards
        self.first_row = np.cumsum([0, *(entry.rows for entry in self.shards)])
        self.everything: Selection = [
            (number, slice(0, entry.rows)) for number, entry in enumerate(self.shards) if entry.rows
        ]
        self.room_bytes = _ROOM_BYTES
        self._path, self._dim, self._checked = path, manifest.dim, checked
        self._open: dict[int, Shard] = {}
        self._floor_bytes = self._mapped_bytes = 0

    def __len__(self) -> int:
        return int(self.first_row[-1])

    def close(self) -> None:
        """Lets go of all files."""
        self._open.clear()

    def rows_in(self, ranges: NDArray[np.uint64]) -> Selection:
        """Returns the rows in ranges of cells, (R, 2), ascending, both ends included; reads no shard without any."""
        parents = cells.from_tokens([entry.parent for entry in self.shards])
        lows, highs = cells.range_min(parents), cells.range_max(parents)
        firsts, lasts = np.searchsorted(ranges[:, 1], lows), np.searchsorted(ranges[:, 0], highs, "right")
        touched = np.flatnonzero(firsts < lasts).tolist()
        inside = self._of_each(
            touched, lambda i: cells.rows_in_ranges(self.column("cell", i), ranges[firsts[i] : lasts[i]])
        )
        return [(i, rows) for i, rows in zip(touched, inside, strict=True) if len(rows)]

    def column(self, name: str, number: int) -> NDArray[Any]:
        """Returns a column of a shard."""
        shard = self._shard(number)
        shard.check(name)
        return shard.read(name)

    def columns(self, name: str) -> list[NDArray[Any]]:
        """Returns a column of each shard."""
        return self._of_each(range(len(self.shards)), lambda number: self.column(name, number))

    def cell_ids(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Returns the cells of rows of any shape, in any order; 0 for row -1."""
        return self._values("cell", rows, np.uint64)

    def dates(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Returns the dates of rows of any shape, in any order; 0 for row -1, too."""
        return self._values("date", rows, np.int32)

    def blocks(self, selection: Selection) -> Blocks:
        """Yields the aerial codes of a selection, (n, dim) each."""
        for number, selected in selection:
            rows = np.arange(selected.start, selected.stop) if isinstance(selected, slice) else selected
            for start in range(0, len(rows), _READ_ROWS):
                part = rows[start : start + _READ_ROWS]
                yield self.first_row[number] + part, self._aerial(number, part)

    def mapped(self) -> list[NDArray[np.float16]] | None:
        """Returns the aerial codes of each shard that has any, mapped; None where a file is not the plain matrix."""
        blocks: list[NDArray[np.float16]] = []
        for number, selected in self.everything:
            shard = self._shard(number)
            if not shard.is_plain("aerial"):
                return None
            if self._checked:
                shard.check("aerial")
            blocks.append(shard.take("aerial", selected))
        return blocks

    def aerial(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Returns the aerial codes of ascending rows, (n, dim)."""
        found = np.empty((len(rows), self._dim), np.float16)

        def find(part: tuple[int, slice, NDArray[np.int64]]) -> None:
            number, here, inside = part
            for some in self._parts(inside):
                self._trim(self._mapped_bytes_of(inside[some]))
                self._aerial(number, inside[some], found[here][some])

        self._of_each(self._by_shard(rows), find)
        return found

    def _mapped_bytes_of(self, rows: NDArray[np.int64]) -> int:
        """Returns how much is mapped to read ascending rows of a shard: what lies around each, or all between them."""
        of_row = self._dim * np.dtype(np.float16).itemsize
        span = int(rows[-1] - rows[0] + 1) * of_row
        return min(span + 2 * _AROUND_BYTES, len(rows) * (of_row + _AROUND_BYTES))

    def _parts(self, rows: NDArray[np.int64], start: int = 0) -> Iterator[slice]:
        """Cuts ascending rows of a shard into parts of which there is room for two."""
        if len(rows) > 1 and 2 * self._mapped_bytes_of(rows) > self.room_bytes:
            half = len(rows) // 2
            yield from self._parts(rows[:half], start)
            yield from self._parts(rows[half:], start + half)
        else:
            yield slice(start, start + len(rows))

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            self._open[number] = store.open_shard(self._path, self.shards[number])
        return self._open[number]

    def _of_each(self, some: Iterable[S], read: Callable[[S], T]) -> list[T]:
        """Reads something of each of some shards; at an address, of several at once."""
        if isinstance(self._path, Path):
            return list(map(read, some))
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(read, some))

    def _values(self, name: str, rows: NDArray[np.int64], dtype: type[_Number]) -> NDArray[_Number]:
        found, order = np.zeros(rows.size, dtype), np.argsort(rows, axis=None)

        def find(part: tuple[int, slice, NDArray[np.int64]]) -> None:
            number, here, inside = part
            self._shard(number).check(name, inside)
            found[order[here]] = self._shard(number).read(name)[inside]

        self._of_each(self._by_shard(rows.ravel()[order]), find)
        return found.reshape(rows.shape)

    def _aerial(
        self, number: int, rows: NDArray[np.int64], out: NDArray[np.float16] | None = None
    ) -> NDArray[np.floating]:
        shard = self._shard(number)
        if self._checked:
            shard.check("aerial", rows)
        return shard.take("aerial", rows, out)

    def _by_shard(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, slice, NDArray[np.int64]]]:
        """Yields the shards of ascending rows: which of the rows lie in one, and their numbers in there."""
        ends = np.searchsorted(rows, self.first_row)
        for number in np.flatnonzero(np.diff(ends)).tolist():
            here = slice(ends[number], ends[number + 1])
            yield number, here, rows[here] - self.first_row[number]

    def _trim(self, n_bytes: int) -> None:
        """Lets go of codes that were read here and there, which would fill memory with all of them in the end.

        The kernel keeps them as long as it has no better use for the memory.

        Args:
            n_bytes: What is mapped next, at most.
        """
        # At most; how much it is takes a while to ask.
        self._mapped_bytes += n_bytes
        if self._mapped_bytes > self.room_bytes:
            held_bytes = _file_bytes()
            if held_bytes + n_bytes > self._floor_bytes + self.room_bytes:
                for shard in list(self._open.values()):
                    shard.release("aerial")
                held_bytes = self._floor_bytes = _file_bytes()
            self._mapped_bytes = held_bytes - self._floor_bytes + n_bytes


def _file_bytes() -> int:
    """Returns how much of mapped files this process holds in memory (proc(5), statm)."""
    with Path("/proc/self/statm").open("rb", buffering=0) as file:
        return int(file.read().split()[2]) * _PAGE_BYTES
